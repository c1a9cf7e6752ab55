"""Arguments as users of numpy, Pillow and torch pass them: taken where they are meant, else refused in one line."""

import enum
import io
import pickle
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import guideflow as gf
import guideflow_avatars as avatars
import guideflow_identity
import tiny
from guideflow import provenance, registry
from guideflow.__main__ import main
from guideflow._devices import as_device
from guideflow.errors import GuideflowError, InvalidArgument, InvalidImage, InvalidLoss
from guideflow.losses.vision import read_images, read_subjects
from guideflow_diffusers.latent import LatentSampler
from guideflow_diffusers.parts import load_parts
from guideflow_diffusers.perflow import perflow_schedule
from problems import Distance, assert_same, linear, mixture, target

ADA = avatars.portrait("ada")
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
EXACT = torch.from_numpy(PIXELS).permute(2, 0, 1).float() / 255


def turned() -> Image.Image:
    """The picture as a phone keeps it: turned, with a tag that says so."""
    picture = Image.fromarray(np.rot90(PIXELS).copy())
    picture.getexif()[0x0112] = 6
    return picture


def transparent() -> Image.Image:
    picture = Image.fromarray(PIXELS).convert("RGBA")
    picture.putalpha(255)
    return picture


@pytest.mark.parametrize(
    "given",
    [
        Image.fromarray(PIXELS),
        transparent(),
        turned(),
        PIXELS,
        PIXELS[None],
        np.dstack([PIXELS, np.full((6, 5), 255, np.uint8)]),
        PIXELS.astype(np.uint16) * 257,
        (PIXELS / 255).astype(np.float32),
        EXACT,
        EXACT[None],
        EXACT.numpy(),
        np.rot90(np.rot90(PIXELS).copy(), -1),  # with negative strides
    ],
    ids=lambda given: type(given).__name__,
)
def test_a_reference_is_what_it_looks_like(given: Any) -> None:
    for several in (given, [given, given]):
        for read in read_images(several):
            assert read.dtype == torch.float32
            torch.testing.assert_close(read, EXACT, rtol=0, atol=1e-6)
    (((name, image),),) = read_subjects(given, False, "same")
    assert name == "reference 0" and torch.equal(image[0], read)
    assert [len(each) for each in read_subjects([given, [given, given]], False, "same")] == [1, 2]
    assert len(read_subjects([given, given], True, "same")[0]) == 2


@pytest.mark.parametrize("name", ["avatars-identity", "avatars-style", "avatars-subject"])
def test_pillow_images_and_arrays_are_references(name: str) -> None:
    x = gf.images.read_image(avatars.portrait("cleo"))
    expected = gf.load_loss(name, reference=ADA)(x)
    picture = Image.open(ADA)
    bytes_ = np.asarray(picture.convert("RGB"))
    for given in (picture, bytes_, bytes_ / 255, (bytes_ / 255).astype(np.float32), [picture]):
        assert torch.allclose(gf.load_loss(name, reference=given)(x).float(), expected, atol=1e-6)


def test_several_subjects_of_several_kinds() -> None:
    picture = Image.new("RGB", (4, 6), "red")
    found = read_subjects([picture, [np.zeros((5, 5, 3), np.uint8), torch.zeros(3, 2, 2)], str(ADA)], False, "same")
    assert [[tuple(image.shape[2:]) for _, image in one] for one in found] == [[(6, 4)], [(5, 5), (2, 2)], [(128, 128)]]
    assert [name for one in found for name, _ in one] == ["reference 0", "reference 0", "reference 1", str(ADA)]


def test_grey_and_transparent_arrays_become_rgb() -> None:
    grey = PIXELS[..., 0]
    for given in (grey, grey[..., None], Image.fromarray(grey)):
        assert torch.equal(read_images(given)[0], EXACT[:1].expand(3, -1, -1))
    assert (read_images(np.zeros((4, 4, 4), np.uint8))[0] == 1).all(), "white shows through"
    half = np.dstack([PIXELS, np.arange(30, dtype=np.uint8).reshape(6, 5) * 8])
    expected = read_images(Image.fromarray(half))[0]
    assert torch.equal(read_images(half)[0], expected) and torch.equal(read_images(half[None])[0], expected)
    torch.testing.assert_close(read_images(half / 255)[0].float(), expected, rtol=0, atol=1 / 255)
    assert read_images(np.float64(PIXELS / 255))[0].dtype == torch.float64


def test_sizes_may_be_numpys(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for size in (np.int64(4), [np.int64(4), 4], np.array([4, 4])):
        assert gf.images.read_image(tmp_path / "a.png", size=size).shape == (1, 3, 4, 4)


@pytest.mark.parametrize("name", ["style", "identity", "avatars-identity", "segmentation"])
@pytest.mark.parametrize(
    ("given", "says"),
    [("", "an empty name"), ("a" * 300 + ".png", "There is no|cannot be opened|cannot be read|too long")],
)
def test_names_that_are_none_are_refused_as_references(name: str, given: str, says: str) -> None:
    with pytest.raises(GuideflowError, match=says) as caught:
        gf.load_loss(name, reference=given)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("command", ["evaluate", "report", "verify", "inspect", "sweep"])
def test_an_empty_name_is_not_the_working_folder(command: str, capsys: Any) -> None:
    assert main([command, ""]) == 2
    assert "Got an empty name" in capsys.readouterr().err


def test_what_is_read_is_a_copy() -> None:
    mine = (PIXELS / 255).astype(np.float32)
    (read,) = read_images(mine)
    mine[:] = 0
    assert read.mean() > 0.3


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (b"\x89PNG", "of type bytes"),
        (None, "of type NoneType"),
        (3, "of type int"),
        (io.BytesIO(b"a.png"), "of type BytesIO"),
        ({"a.png"}, "of type set"),
        ({"a.png": 1}, "of type dict"),
        ("https://example.org/a.png", "Got the address https://example.org/a.png"),
        ("FILE:///tmp/a.png", "Got the address"),
        ("data:image/png;base64,AAAA", "Got the address"),
        ([None], "of type NoneType"),
        ([], "no image"),
        (PIXELS.astype(np.int64), "array of int64"),
        (PIXELS.astype(np.float32), r"range \[0, 2\d\d\]"),
        (np.zeros(4, np.uint8), "shape"),
        (np.array(["a.png"]), "array of <U5"),
        (torch.zeros(1, 3, 0, 4), "no pixels"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (torch.full((3, 4, 4), torch.nan), "nan or inf"),
        (np.full((4, 4, 3), np.inf), "range|nan or inf"),
        (torch.zeros(3, 4, 4, device="meta"), "without pixels"),
        (torch.zeros(3, 4, 4).to_sparse(), "sparse"),
    ],
    ids=str,
)
def test_what_is_no_image_is_refused(given: Any, says: str) -> None:
    with pytest.raises(InvalidImage, match=says):
        read_images(given)


@pytest.mark.parametrize(
    "given", [Image.fromarray(PIXELS), EXACT, PIXELS, b"a.png", None, 3], ids=lambda one: type(one)
)
def test_what_is_no_path_of_a_picture_is_refused(given: Any) -> None:
    for read in (gf.images.read_image, gf.images.read_metadata, provenance.inspect):
        with pytest.raises(InvalidImage, match=r"as the path of a picture\. .*from_pil"):
            read(given)
    if not isinstance(given, Image.Image):
        with pytest.raises(InvalidImage, match="as a Pillow image"):
            gf.images.from_pil(given)


def test_a_damaged_image_of_pillow_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:500])
    with Image.open(tmp_path / "a.png") as cut, pytest.raises(InvalidImage, match="damaged or cut short"):
        read_images(cut)


@pytest.mark.parametrize("seed", [3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)], ids=repr)
def test_a_seed_is_a_whole_number_of_any_library(seed: Any) -> None:
    sampler = mixture()
    loss, whole = Distance(target(sampler)), {"max_iterations": np.int64(1), "candidates": np.int32(2)}
    expected = gf.solve(sampler, loss, seed=[3, 3], max_iterations=1, candidates=2)
    assert_same(gf.solve(sampler, loss, seed=[seed, seed], **whole), expected)
    many = gf.solve(sampler, loss, seed=np.array([3, 3]), prompt=np.array(["", ""]), **whole)
    assert_same(many, expected)
    assert many.seeds == (3, 3) and type(many.seeds[0]) is int and type(many.prompts[0]) is str


@pytest.mark.parametrize("seed", [3.0, True, "3", None, 2**64, -(2**63) - 1, torch.tensor(3.0), [[1]]], ids=repr)
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"`seed`\. Expected whole numbers"):
        gf.solve(mixture(), Distance(target(mixture())), seed=seed)


@pytest.mark.parametrize("prompt", [None, 3, [None], b"x"], ids=repr)
@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_what_is_no_prompt_is_refused(name: str, prompt: Any) -> None:
    if (name, prompt) == ("negative_prompt", None):
        return
    with pytest.raises(InvalidArgument, match=f"`{name}`\\. Expected str"):
        gf.solve(mixture(), Distance(target(mixture())), **{name: prompt})


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("strength", "much", "strength='much'. Expected a number above 0"),
        ("strength", None, None),
        ("strength", np.float32(0.5), None),
        ("mask", 3, "mask of type int"),
        ("mask", np.full((6, 6), 255, np.uint8), None),
        ("mask", np.ones((6, 6), bool), None),
        ("start", 3, "start of type int"),
    ],
    ids=str,
)
def test_what_is_no_strength_mask_or_start_is_refused(name: str, given: Any, says: str | None) -> None:
    options: dict[str, Any] = {"start": np.zeros((6, 6, 3), np.uint8), "strength": 0.5, name: given}
    sampler = mixture()
    if says is None:
        assert gf.solve(sampler, Distance(target(sampler)), max_iterations=0, **options).edit is not None
        return
    with pytest.raises((InvalidArgument, InvalidImage), match=says):
        gf.solve(sampler, Distance(target(sampler)), **options)


NUMBERS = {"target_loss": 0.25, "patience": 3, "loss_scale": 100.0, "memory_limit": 10**9}


@pytest.mark.parametrize("make", [np.float32, np.float64, np.int64, torch.tensor], ids=lambda make: make.__name__)
@pytest.mark.parametrize(("name", "value"), NUMBERS.items())
def test_numbers_of_any_library_are_saved(name: str, value: float, make: Any, tmp_path: Path) -> None:
    if isinstance(value, int) and "float" in make.__name__ and name == "patience":
        return
    solution = gf.solve(linear(), Distance(target(linear())), max_iterations=1, **{name: make(value)})
    solution.save(tmp_path)
    again = gf.Solution.load(tmp_path).settings
    assert getattr(again, name) == make(value).item() and type(getattr(again, name)) in (int, float)


def test_options_of_solvers_and_weights_of_losses_may_be_numpys(tmp_path: Path) -> None:
    loss = gf.load_loss("avatars-style", reference=PIXELS) * np.float32(0.5)
    solver = gf.FlowGrad(scale=np.float32(0.5), decay=np.float64(0.0))
    gf.solve(gf.load_sampler("toy-mixture", num_steps=np.int64(2)), loss, solver=solver, max_iterations=1).save(
        tmp_path
    )
    configs = gf.Solution.load(tmp_path).configs
    assert configs["solver"]["options"]["scale"] == 0.5
    assert configs["sampler"] == {"name": "toy-mixture", "options": {"num_steps": 2}}
    assert registry.config(loss) is None


@pytest.mark.parametrize("weight", [np.float32(2), np.int64(2), np.float64(2)], ids=repr)
def test_a_weight_may_stand_on_either_side(weight: Any) -> None:
    loss, image = Distance(torch.zeros(3, 4, 4)), torch.rand(1, 3, 4, 4)
    assert type((weight * loss).weights()["distance"]) is float
    assert torch.equal((weight * loss)(image), (loss * weight)(image)) and torch.equal(
        (loss / weight)(image), loss(image) / 2
    )


@pytest.mark.parametrize(
    ("device", "says"), [("gpu", "Expected 'cpu', 'cuda'"), (3.5, "Expected 'cpu'"), ("cuda:x", "Exp")]
)
def test_what_is_no_device_is_refused(device: Any, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        gf.load_sampler("toy-mixture", device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", torch.device("cuda"), "mps"])
def test_a_device_that_is_not_there_is_one_line(device: Any) -> None:
    for kind, name in (("sampler", "toy-mixture"), ("sampler", "avatars-perflow"), ("loss", "avatars-identity")):
        options = {"reference": PIXELS} if kind == "loss" else {}
        with pytest.raises(InvalidArgument, match=r"^Got device=.*finds no .* on this machine. Type device='cpu'"):
            getattr(gf, f"load_{kind}")(name, device=device, **options)


def test_a_device_that_is_there_is_taken(monkeypatch: Any) -> None:
    assert as_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("guideflow._devices.cannot_compute", lambda device: "")
    assert as_device("cpu:3") == torch.device("cpu") and as_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InvalidArgument, match="there are 2 GPUs"):
        as_device("cuda:2")


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "ipu"])
def test_devices_that_are_not_here(device: str) -> None:
    for load in (
        lambda: gf.load_sampler("avatars-perflow", device=device),
        lambda: gf.load_loss("avatars-identity", reference=ADA, device=device),
        lambda: gf.load_loss("identity", reference=guideflow_identity.example(), device=device),
        lambda: gf.load_loss("avatars-subject", reference=ADA, device=device),
    ):
        with pytest.raises(GuideflowError, match=r"Got device=.*'cpu'"):
            load()


@pytest.mark.parametrize("device", ["meta", torch.device("meta"), "xla", "hpu"])
def test_devices_where_nothing_can_be_computed(device: Any) -> None:
    for load in (
        lambda: gf.load_sampler("toy-mixture", device=device),
        lambda: type(mixture())(device=device),
        lambda: gf.load_sampler("avatars-perflow", device=device),
        lambda: gf.load_loss("avatars-identity", reference=ADA, device=device),
        lambda: gf.load_metric("avatars-kid", device=device),
    ):
        with pytest.raises(InvalidArgument, match=r"^Got device=.*can be computed here \(.*\)\. Expected 'cpu'.* type"):
            load()


def test_a_sampler_or_a_loss_elsewhere_is_one_line(capsys: Any, monkeypatch: Any, tmp_path: Path) -> None:
    sampler = mixture()
    weights = torch.nn.Linear(3, 1).to("meta").requires_grad_(False)
    for loss, says in (
        (lambda image: weights(image.mean((2, 3)))[:, 0], "computes on another device than 'cpu'"),
        (lambda image: image.mean((1, 2, 3)).to("meta"), "returned numbers on 'meta', another device than 'cpu'"),
    ):
        with pytest.raises(InvalidLoss, match=f"{says}.* load the loss with device='cpu'"):
            gf.solve(sampler, loss, max_iterations=1)
    sampler.device = torch.device("meta")
    with pytest.raises(InvalidArgument, match=r"The sampler ToyMixture is on the device 'meta'.* with device='cpu'"):
        gf.solve(sampler, warmth, max_iterations=1)
    monkeypatch.chdir(tmp_path)
    loss = f"avatars-identity:reference={ADA}"
    assert main(["run", "--sampler", "toy-mixture:device=meta", "--loss", loss, "--out", "none"]) == 2
    assert main(["run", "--sampler", "toy-mixture", "--loss", f"{loss},device=meta", "--out", "none"]) == 2
    assert capsys.readouterr().err.count("guideflow: Got device='meta', where nothing") == 2
    assert not Path("none").exists()


@pytest.mark.parametrize("load", [gf.load_sampler, gf.load_loss, gf.load_solver, gf.load_metric])
def test_a_name_of_any_length_is_refused_in_a_line(load: Any) -> None:
    with pytest.raises(GuideflowError) as caught:
        load("9" * 100_000)
    told = str(caught.value)
    assert len(told) < 2000 and not told.endswith("9") and str(pickle.loads(pickle.dumps(caught.value))) == told


def warmth(image: Any) -> Any:
    return image.mean((1, 2, 3))


def test_losses_and_samplers_are_sent_to_other_processes_after_use() -> None:
    example = gf.images.read_image(guideflow_identity.example())
    loss = gf.load_loss("identity", reference=example)
    value = loss(example)
    assert torch.equal(pickle.loads(pickle.dumps(loss))(example), value)
    sampler = gf.load_sampler("avatars-perflow")
    options: dict[str, Any] = {"prompt": "a person", "max_iterations": 1, "candidates": 1, "gradient_mode": "windowed"}
    solution = gf.solve(sampler, gf.as_loss(warmth), **options)
    again = gf.solve(pickle.loads(pickle.dumps(sampler)), warmth, **options)
    assert torch.equal(again.images, solution.images)
    assert torch.equal(pickle.loads(pickle.dumps(solution)).images, solution.images)


@pytest.mark.parametrize(
    "options",
    [
        {"labels": {"hair"}},
        {"labels": np.array([3, 1])},
        {"labels": [np.int64(3)]},
        {"class_weights": {3: 2.0}},
        {"class_weights": np.full(6, 2.0)},
        {"class_weights": torch.ones(6)},
        {"ignore_index": np.uint8(255)},
    ],
)
def test_sets_arrays_and_numbers_as_keys_come_back_from_a_run(tmp_path: Path, options: dict[str, Any]) -> None:
    sampler = gf.load_sampler("toy-mixture", size=16, num_steps=2)
    loss = gf.load_loss("avatars-segmentation", reference="ada", **options)
    gf.solve(sampler, loss, max_iterations=0, candidates=1, save_to=tmp_path / "run")
    again = gf.resume(tmp_path / "run", max_iterations=0)
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(again.problem.loss(image), loss(image))


def test_fractions_and_enums_in_settings_come_back_from_a_run(tmp_path: Path) -> None:
    sampler = gf.load_sampler("toy-mixture", size=16, num_steps=2)

    class Mode(str, enum.Enum):
        WINDOWED = "windowed"

    settings: dict[str, Any] = {"target_loss": Fraction(1, 100), "gradient_mode": Mode.WINDOWED, "patience": np.int8(5)}
    gf.solve(sampler, warmth, max_iterations=1, candidates=1, save_to=tmp_path / "run", **settings)
    again = gf.resume(tmp_path / "run", max_iterations=2, sampler=sampler, loss=warmth).settings
    assert (again.target_loss, again.gradient_mode, again.patience) == (0.01, "windowed", 5)


@pytest.mark.parametrize("folder", [3, b"out", "a\0b", "", None, ["out"]])
def test_what_is_no_folder_is_refused_before_the_work(folder: Any) -> None:
    calls = list[Any]()
    sampler, options = mixture(), {"max_iterations": 0, "candidates": 1}
    for use in (
        *([] if folder is None else [lambda: gf.solve(sampler, calls.append, save_to=folder, **options)]),
        lambda: gf.Solution.load(folder),
        lambda: gf.verify(folder),
        lambda: gf.solve(sampler, warmth, **options).save(folder),
    ):
        with pytest.raises(InvalidArgument, match=r"as folder. Expected a path"):
            use()
    assert calls == []


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("loss", "identity", {"same_person": "no"}),
        ("loss", "clip", {"allow_pickle": "no"}),
        ("loss", "avatars-subject", {"floor": "0.1"}),
        ("loss", "avatars-style", {"size": "64"}),
        ("sampler", "toy-mixture", {"size": "8"}),
        ("sampler", "toy-mixture", {"size": True}),
        ("sampler", "toy-mixture", {"size": 0}),
        ("sampler", "toy-linear", {"image": "no"}),
        ("solver", "auto", {"passes": "no"}),
    ],
)
def test_options_of_another_type_are_refused_and_not_taken_for_a_yes(kind: str, name: str, options: Any) -> None:
    given = options | ({"reference": ADA} if kind == "loss" else {})
    with pytest.raises(InvalidArgument, match=rf"[Gg]ot {next(iter(options))}="):
        getattr(gf, f"load_{kind}")(name, **given)


@pytest.mark.parametrize("option", ["watermark", "preset", "paste_back", "throw"])
def test_a_solve_takes_no_text_for_a_yes(option: str) -> None:
    with pytest.raises(InvalidArgument, match=f"Got {option}='no'. Expected one of"):
        gf.solve(mixture(), warmth, max_iterations=0, **{option: "no"})


def test_a_class_is_no_loss() -> None:
    with pytest.raises(InvalidLoss, match=r"as a loss\. Expected a callable"):
        gf.solve(mixture(), Distance, max_iterations=0)


@pytest.mark.parametrize("size", ["64", "ab", 0, (8, 0), (8, 8, 8), 8.0, (8.5, 8), b"64", True])
def test_what_is_no_size_is_refused(tmp_path: Path, size: Any) -> None:
    gf.images.save_image(tmp_path / "a.png", torch.rand(3, 8, 8))
    for use in (
        lambda: gf.images.read_image(tmp_path / "a.png", size=size),
        lambda: gf.images.fit(tmp_path / "a.png", size),
    ):
        with pytest.raises(InvalidArgument, match="Expected the side of a square"):
            use()
    assert gf.images.fit(tmp_path / "a.png", np.int64(4)).shape == gf.images.fit(tmp_path / "a.png", [4, 4]).shape


@pytest.mark.parametrize("wrapper", [gf.Momentum, gf.solvers.Polished, gf.solvers.Previewed])
@pytest.mark.parametrize("given", [3, "flowgrad", None, gf.FlowGrad], ids=repr)
def test_what_is_wrapped_is_a_solver(wrapper: Any, given: Any) -> None:
    with pytest.raises(InvalidArgument, match=f"{wrapper.__name__} got solver=.* Expected a solver"):
        wrapper(given)


ODD: list[Any] = [None, -1, float("nan"), 10**400, "", "x", b"x", [1], {"a": 1}, object(), np.array([1.0, 2.0])]
ODD += [torch.rand(3), lambda: 1, int, 1 + 2j, {1}, "caf\udce9", "x" * 3000, "a\0b"]


@pytest.mark.parametrize(
    ("kind", "name", "given"),
    [
        *(("solver", name, {}) for name in ("anchored", "auto", "flowgrad", "momentum", "polyak", "windows")),
        ("sampler", "toy-mixture", {}),
        ("loss", "avatars-segmentation", {"layout": np.zeros((16, 16), int)}),
        ("loss", "avatars-style", {"reference": np.zeros((16, 16, 3), np.uint8)}),
        ("loss", "measurement", {"observed": np.zeros((16, 16, 3), np.uint8), "operator": "blur"}),
    ],
)
def test_an_option_of_another_kind_is_taken_or_refused_in_a_line(kind: str, name: str, given: dict[str, Any]) -> None:
    load = {"solver": gf.load_solver, "sampler": gf.load_sampler, "loss": gf.load_loss}[kind]
    for option in registry.options(registry.factory(kind, name)) or ():
        for value in ODD:
            try:
                load(name, **given | {option.name: value})
            except (gf.GuideflowError, OSError) as error:
                assert "\n" not in str(error).strip() or isinstance(error, gf.errors.MissingWeights)
                assert len(str(error)) < 3500


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: Any) -> Any:
    return tiny.sd15(tmp_path_factory.mktemp("sd15"))


@pytest.mark.parametrize("option", ["checkpoint", "base", "lora", "decoder_gradient"])
@pytest.mark.parametrize("given", [3, b"folder", ["one", "two"], "", "x" * 5000, SimpleNamespace(vae=1, scheduler=1)])
def test_what_is_no_path_is_refused_in_a_line(checkpoint: Path, option: str, given: Any) -> None:
    options = {"checkpoint": str(checkpoint)} | {option: given}
    with pytest.raises(InvalidArgument) as caught:
        gf.load_sampler("perflow", **options)
    says = str(caught.value)
    assert option in says and len(says) < 500
    assert ("from_pipeline(pipe)" in says) == isinstance(given, list | SimpleNamespace)


@pytest.mark.parametrize("given", [64.0, "64", (16, 16, 16), (16.0, 16), 10**9, True, float("nan"), ()], ids=repr)
def test_sides_of_pictures_are_whole_numbers(checkpoint: Path, given: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"image_size=.* from 1 to 65536"):
        LatentSampler(load_parts(checkpoint), perflow_schedule(), image_size=given)


@pytest.mark.parametrize(
    "given", [float("nan"), float("inf"), -1, "7", 10**400], ids=["nan", "inf", "-1", "text", "huge"]
)
def test_a_guidance_scale_is_a_number(checkpoint: Path, given: Any) -> None:
    with pytest.raises(InvalidArgument, match="Got guidance_scale="):
        LatentSampler(load_parts(checkpoint), perflow_schedule(), guidance_scale=given)


def test_whether_auto_previews_is_yes_or_no() -> None:
    with pytest.raises(InvalidArgument, match="preview"):
        gf.Auto(preview="yes")  # type: ignore[arg-type]
