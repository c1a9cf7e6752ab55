"""What a saved picture tells, what it does not, and what is not shown at all."""

import io
import json
import sys
from functools import partial
from inspect import unwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import guideflow as gf
import guideflow_avatars as avatars
from certificates import certificate
from guideflow import images, provenance
from guideflow.__main__ import main
from guideflow.errors import InvalidArgument, InvalidImage, Refused
from guideflow.provenance import credentials, publishing, statement, watermark
from guideflow_diffusers.safety import safety_guard
from problems import Distance, mixture, target

ADA = avatars.portrait("ada")


def again(image: Image.Image, jpeg: int | None = None, size: float = 1.0) -> torch.Tensor:
    """A picture after it was sent around."""
    if size != 1.0:
        image = image.resize((int(image.width * size), int(image.height * size)), Image.Resampling.BICUBIC)
    if jpeg is not None:
        image.save(content := io.BytesIO(), "JPEG", quality=jpeg)
        image = Image.open(content)
    return images.from_pil(image)[0]


# The watermark


@pytest.mark.parametrize("name", sorted(path.stem for path in ADA.parent.glob("*.png")))
def test_the_mark_is_found_again_and_hardly_seen(name: str) -> None:
    plain = images.read_image(avatars.portrait(name))[0]
    marked = watermark.mark(plain)
    assert torch.equal(marked, watermark.mark(plain)), "the same every time"
    picture = images.to_pil(marked)
    for sent in ({}, {"jpeg": 75}, {"size": 0.5}, {"size": 2.0}):
        assert watermark.score(again(picture, **sent)) >= watermark.FOUND, sent
        assert abs(watermark.score(again(images.to_pil(plain), **sent))) < watermark.FOUND / 1.5, sent
    assert -10 * (marked - plain).square().mean().log10() > 35  # dB


@pytest.mark.parametrize("size", [(128, 128), (512, 512), (512, 300), (131, 257)])
def test_the_mark_does_not_depend_on_the_size(size: tuple[int, int]) -> None:
    noise = torch.rand(3, size[0] // 8, size[1] // 8, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.interpolate(noise[None], size, mode="bicubic")[0].clamp(0, 1)
    picture = images.to_pil(watermark.mark(plain))
    assert min(watermark.score(again(picture, jpeg=75)), watermark.score(again(picture, size=0.5))) >= watermark.FOUND
    assert abs(watermark.score(plain)) < 0.13


@pytest.mark.parametrize("colour", ["white", "black", "red", "grey"])
def test_a_picture_of_one_colour_is_not_taken_for_marked(colour: str) -> None:
    assert abs(watermark.score(images.from_pil(Image.new("RGB", (128, 128), colour))[0])) < 0.02


# What is saved


class Warm(gf.Loss):
    """A loss that calls itself one of faces."""

    shows_face = True

    def __call__(self, image: Any) -> Any:
        return grey(image)


def grey(image: Any) -> Any:
    """The same, of which nothing says that it is one of faces."""
    return (image - 0.5).square().flatten(1).mean(1)


def twice(image: Any, face: Any) -> Any:
    return 2 * face(image)


WARM = Warm()


class Holds(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.losses = [Warm()]

    def forward(self, image: Any) -> Any:
        return self.losses[0](image)


@pytest.mark.parametrize(
    "loss",
    [
        lambda image: WARM(image),
        lambda image, face=WARM: face(image),
        Warm().__call__,
        partial(twice, face=Warm()),
        partial(twice, face=lambda image: WARM(image)),
        Holds(),
        torch.compile(Warm(), backend="eager"),
        torch.compile(Holds(), backend="eager"),
        torch.compile(lambda image: WARM(image) + 1, backend="eager"),
        gf.balanced(torch.compile(Warm(), backend="eager"), grey),
    ],
)
def test_a_loss_of_a_face_is_known_inside_of_what_calls_it(loss: Any) -> None:
    assert provenance.is_marked(loss) and not provenance.is_marked(grey)


@pytest.mark.parametrize(("wanted", "expected"), [(None, True), (True, True), (False, False)])
def test_losses_of_faces_are_marked_unless_told_otherwise(wanted: bool | None, expected: bool, tmp_path: Path) -> None:
    sampler = gf.load_sampler("toy-mixture", size=128, num_steps=2)
    options: dict[str, Any] = {"max_iterations": 1, "candidates": 1}
    solution = gf.solve(sampler, 0.5 * Warm(), watermark=wanted, save_to=tmp_path, **options)
    plain = gf.solve(sampler, gf.as_loss(grey, "plain") * 0.5, **options)
    assert solution.settings.watermark == expected and not plain.settings.watermark
    assert torch.equal(solution.images, plain.images), "a solution is never marked"
    for name in ("guided-00.png", "unguided-00.png"):
        found = provenance.inspect(tmp_path / name)
        assert found.watermark == expected and found.metadata["watermark"].startswith(
            "blind-watermark" if expected else "none"
        )
    assert gf.verify(tmp_path, loss=0.5 * Warm()).same


def test_pictures_too_small_for_it_say_so(tmp_path: Path) -> None:
    sampler = gf.load_sampler("toy-mixture", size=32, num_steps=2)
    gf.solve(sampler, Warm(), max_iterations=1, candidates=1, save_to=tmp_path)
    found = provenance.inspect(tmp_path / "guided-00.png")
    assert "less than 128 pixels" in found.metadata["watermark"] and not found.watermark


def test_without_the_library_it_says_so(tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setitem(sys.modules, "blind_watermark", None)
    publishing._tell.cache_clear()
    sampler = gf.load_sampler("toy-mixture", size=128, num_steps=2)
    gf.solve(sampler, Warm(), max_iterations=0, candidates=1, save_to=tmp_path)
    (record,) = caplog.records
    assert "not marked as generated" in record.getMessage() and "guideflow[provenance]" in record.getMessage()
    found = provenance.inspect(tmp_path / "guided-00.png")
    assert found.score is None and "guideflow[provenance]" in found.metadata["watermark"]


def test_people_are_marked_and_cartoons_are_nobody() -> None:
    import guideflow_identity

    face, cartoon = (
        gf.load_loss("identity", reference=guideflow_identity.example()),
        gf.load_loss("avatars-identity", reference=ADA),
    )
    assert provenance.is_marked(face) and provenance.is_marked(2 * face + gf.as_loss(lambda x: x.mean((1, 2, 3))))
    assert not provenance.is_marked(cartoon) and not provenance.is_marked(gf.load_loss("avatars-style", reference=ADA))


def test_a_picture_says_what_made_it_and_no_path(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    portrait = tmp_path / "private" / "ada-lovelace.png"
    portrait.write_bytes(ADA.read_bytes())
    loss = gf.load_loss("avatars-style", reference=str(portrait))
    sampler = gf.load_sampler("toy-mixture", size=16, num_steps=2)
    gf.solve(sampler, loss, prompt="a ☂", negative_prompt="b", max_iterations=1, save_to=tmp_path / "run")
    text = images.read_metadata(tmp_path / "run" / "guided-00.png")
    assert "private" not in str(text).replace("(private)", "") and "lovelace" not in str(text)
    said = {name.removeprefix("guideflow:"): value for name, value in text.items()}
    assert said["prompt"] == "a ☂" and said["negative prompt"] == "b"
    configs = json.loads(said["configs"])
    assert configs["sampler"] == {"name": "toy-mixture", "options": {"num_steps": 2, "size": 16}}
    assert configs["loss"]["name"] == "avatars-style" and configs["loss"]["options"]["reference"] == "(private)"
    assert json.loads(said["settings"])["max_iterations"] == 1 and json.loads(said["versions"])["torch"]
    assert [len(one) for one in json.loads(said["weights"])["loss"].values()] == [64]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("owner/name", "owner/name"),
        ("anchored", "anchored"),
        (1.5, 1.5),
        ("/home/me/net.safetensors", "(a file)"),
        ("~/net", "(a file)"),
        ("C:\\me\\net", "(a file)"),
        ("nets/../net", "(a file)"),
        ("layout.txt", "(a file, sha256 abc)"),
        ("my/loss.py:Name", "(a file):Name"),
        (["a", {"reference": "x"}], ["a", {"reference": "(private)"}]),
        ({"references": 2}, {"references": 2}),
    ],
    ids=str,
)
def test_what_may_be_told_of_an_option(value: Any, told: Any) -> None:
    assert statement.public(value, {"layout.txt": "abc"}) == told


# Content credentials


@pytest.fixture
def signing(tmp_path: Path, monkeypatch: Any) -> Path:
    chain, key = certificate(tmp_path)
    monkeypatch.setenv(credentials.CERTIFICATE, str(chain))
    monkeypatch.setenv(credentials.KEY, str(key))
    return tmp_path


def saved(folder: Path) -> gf.Solution:
    sampler = mixture(dtype="float32", size=16)
    return gf.solve(sampler, Distance(target(sampler).float()), max_iterations=1, candidates=1, save_to=folder)


def test_pictures_are_signed_where_there_is_a_certificate(signing: Path, capsys: Any) -> None:
    solution = saved(signing / "run")
    file = signing / "run" / "guided-00.png"
    told = provenance.inspect(file).credentials
    assert isinstance(told, dict) and told["signed by"] == "Test signer" and told["generated"]
    assert told["state"] == "Valid" and told["problems"] == ["signingCredential.untrusted"]  # nobody knows the root
    assert torch.equal(images.read_image(file)[0], images.from_pil(solution.to_pil()[0])[0])
    assert main(["inspect", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "signed by: Test signer" in shown and "not found" in shown and '"auto"' in shown
    assert gf.verify(signing / "run", sampler=solution.problem.sampler, loss=solution.problem.loss).same
    whole = file.read_bytes()
    data = whole.index(b"IDAT")
    file.write_bytes(whole[: data + 20] + bytes([whole[data + 20] ^ 1]) + whole[data + 21 :])
    told = credentials.read(file, "PNG")
    assert isinstance(told, dict) and told["state"] == "Invalid", "a picture that was changed"


def test_a_certificate_that_does_not_sign_is_told_before_the_work(signing: Path, monkeypatch: Any) -> None:
    (signing / "key.pem").write_text("no key")
    with pytest.raises(InvalidArgument, match=f"{credentials.CERTIFICATE} names does not sign"):
        saved(signing / "run")
    monkeypatch.delenv(credentials.KEY)
    with pytest.raises(InvalidArgument, match=f"need {credentials.KEY}"):
        saved(signing / "run")
    monkeypatch.setenv(credentials.KEY, str(signing / "nowhere.pem"))
    with pytest.raises(InvalidArgument, match="cannot be read"):
        saved(signing / "run")
    assert not (signing / "run").exists()


def test_one_that_fails_after_the_work_costs_nothing_but_the_signature(signing: Path) -> None:
    sampler = mixture(dtype="float32", size=16)
    solution = gf.solve(sampler, Distance(target(sampler).float()), max_iterations=1, candidates=1)
    (signing / "chain.pem").unlink()
    with pytest.warns(UserWarning, match="no content credentials"):
        solution.save(signing / "run")
    assert provenance.inspect(signing / "run" / "guided-00.png").credentials == "none"


def test_what_is_no_picture_is_not_inspected(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(InvalidImage):
        provenance.inspect(tmp_path)
    Image.new("RGB", (140, 130)).save(tmp_path / "a.jpg")
    assert main(["inspect", str(tmp_path / "a.jpg")]) == 0
    assert "none of guideflow's" in capsys.readouterr().out


# Guards


@pytest.fixture
def guard() -> Any:
    yield provenance.install
    provenance.install(None)


def test_a_prompt_filter_refuses_before_the_work(guard: Any, tmp_path: Path) -> None:
    sampler = mixture()
    loss = Distance(target(sampler))
    part = gf.solve(sampler, loss, prompt="red", max_iterations=1)
    guard(provenance.Guard(prompts=lambda prompt: "not here." if "red" in prompt else None))
    for options in ({"prompt": ["blue", "red"]}, {"prompt": "", "negative_prompt": "red"}):
        with pytest.raises(Refused, match=r"'red' is refused: not here\."):
            gf.solve(sampler, loss, **options)
    with pytest.raises(Refused):
        gf.resume(part, max_iterations=2)
    guard(None)
    gf.resume(part, max_iterations=2)
    with pytest.raises(InvalidArgument, match=r"Expected a `gf\.provenance\.Guard`"):
        unwrap(guard)("everything")  # tests check annotations, which users do not


def test_an_image_that_must_not_be_shown_is_saved_black(guard: Any, tmp_path: Path) -> None:
    sampler = mixture(dtype="float32", size=16)
    loss = Distance(target(sampler).float())
    guard(provenance.Guard(images=lambda batch: [i == 1 for i in range(len(batch))]))
    solution = gf.solve(sampler, loss, seed=[0, 1], max_iterations=1, save_to=tmp_path)
    assert solution.images[1].max() > 0 and np.asarray(solution.to_pil()[1]).max() == 0
    assert (
        images.read_image(tmp_path / "guided-01.png").max() == 0 < images.read_image(tmp_path / "guided-00.png").max()
    )
    assert provenance.inspect(tmp_path / "guided-01.png").metadata["withheld"] == "by a safety checker"
    guard(provenance.Guard(images=lambda batch: [True]))
    with pytest.raises(InvalidArgument, match="judged 1 of 2"):
        solution.to_pil()


def test_a_guard_is_named_by_the_environment(monkeypatch: Any) -> None:
    monkeypatch.setenv("GUIDEFLOW_GUARD", "test_provenance_guard:nothing")
    with pytest.raises(InvalidArgument, match="test_provenance_guard:nothing names cannot be had"):
        provenance.check_prompts(["a"])
    monkeypatch.setenv("GUIDEFLOW_GUARD", "guideflow.provenance:Guard")  # called, it makes one that allows everything
    provenance.check_prompts(["a"])
    monkeypatch.setenv("GUIDEFLOW_GUARD", "builtins:dict")
    with pytest.raises(InvalidArgument, match=r"names \{\}"):
        provenance.check_prompts(["a"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_safety_checker_of_diffusers_is_a_guard(tmp_path: Path) -> None:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(vision_config={**vision, "image_size": 32, "patch_size": 8}, projection_dim=8)
    torch.manual_seed(0)
    checker = StableDiffusionSafetyChecker(config)
    sizes: Any = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = CLIPImageProcessor(**sizes)
    batch = torch.rand(3, 3, 40, 40)
    shown = processor([images.to_pil(one) for one in batch], return_tensors="pt").pixel_values
    with torch.no_grad():
        checker.concept_embeds.normal_()
        seen = torch.nn.functional.normalize(checker.visual_projection(checker.vision_model(shown)[1]))
        alike = seen @ torch.nn.functional.normalize(checker.concept_embeds).T
        # A threshold that the middle one of three images passes.
        checker.concept_embeds_weights[:] = 2.0
        checker.concept_embeds_weights[0] = alike[:, 0].sort().values[1:].mean()
        checker.special_care_embeds_weights[:] = 2.0
    expected = (alike[:, 0] > checker.concept_embeds_weights[0]).tolist()
    assert sum(expected) == 1
    checker.save_pretrained(tmp_path, safe_serialization=True)
    processor.save_pretrained(tmp_path)
    for made in (safety_guard(checker, processor), safety_guard(tmp_path)):
        assert made.images is not None and list(made.images(batch)) == expected
    with pytest.raises(gf.errors.MissingWeights, match="checker="):
        safety_guard(tmp_path / "nowhere")


def test_notices_are_told_once(caplog: Any) -> None:
    from guideflow.registry import loading

    loading._tell.cache_clear()
    for _ in range(2):
        loading._tell(gf.registry.find("loss", "identity"))
        loading._tell(gf.registry.find("sampler", "perflow"))
        loading._tell(gf.registry.find("sampler", "avatars-perflow"))
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["identity", "perflow"]
    assert "agreed" in caplog.records[0].getMessage() and "CC BY-NC" in caplog.records[1].getMessage()
