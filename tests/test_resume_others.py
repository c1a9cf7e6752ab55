"""Resuming with what is no longer what it was: pictures, weights and code that changed on disk, or are gone."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import guideflow as gf
import guideflow_avatars as avatars
import tiny
from guideflow.__main__ import main
from guideflow.errors import CannotResume, InvalidLoss


@pytest.fixture(scope="module")
def sampler():
    return gf.load_sampler("toy-mixture", size=16, num_steps=2)


def draw(path: Path, axis: int) -> None:
    bands = np.arange(32, dtype=np.uint8) // 8
    Image.fromarray(np.broadcast_to(bands[:, None] if axis else bands, (32, 32)).copy()).save(path)


@pytest.mark.parametrize("change", ["gone", "another folder"])
def test_a_layout_is_the_one_that_was_saved(tmp_path, monkeypatch, sampler, change):
    monkeypatch.chdir(tmp_path)
    draw(Path("layout.png"), 0)
    options = {"seed": [0, 1], "candidates": 1, "solver": "anchored"}
    loss = 0.5 * gf.load_loss("avatars-segmentation", layout="layout.png")
    gf.solve(sampler, loss, max_iterations=1, save_to="run", **options)
    whole = gf.solve(sampler, loss, max_iterations=2, **options)
    if change == "gone":
        Path("layout.png").unlink()
    else:
        Path("else").mkdir()
        monkeypatch.chdir("else")
        draw(Path("layout.png"), 1)
    run = Path(tmp_path / "run")
    again = gf.resume(run, max_iterations=2, save_to=run)
    assert torch.equal(again.images, whole.images)
    assert torch.equal(gf.resume(run, max_iterations=2).images, whole.images), "it is kept by every save"
    assert gf.verify(run).same


def test_a_saved_layout_that_was_changed_is_refused(tmp_path, sampler):
    draw(tmp_path / "layout.png", 0)
    loss = gf.load_loss("avatars-segmentation", layout=str(tmp_path / "layout.png"))
    solution = gf.solve(sampler, loss, max_iterations=0, candidates=1)
    (kept,) = solution.configs["copies"].values()
    kept += 1
    solution.save(tmp_path / "run")
    with pytest.raises(CannotResume, match=r"The saved copy of '.*layout.png' is damaged"):
        gf.resume(tmp_path / "run", max_iterations=1)


def warm(image):
    return image.mean((1, 2, 3))


@pytest.fixture
def trained_on(tmp_path, tiny_sd15):
    """A run on a folder of weights, one of which is another one afterwards."""
    shutil.copytree(tiny_sd15, tmp_path / "model")
    sampler = gf.load_sampler("perflow", checkpoint=str(tmp_path / "model"), image_size=16)
    gf.solve(sampler, warm, max_iterations=1, candidates=1, save_to=tmp_path / "run")
    gf.resume(tmp_path / "run", max_iterations=2, loss=warm, trust=True)
    file = next((tmp_path / "model" / "unet").glob("*.safetensors"))
    tensors = load_file(file)
    name = min(tensors)
    save_file({**tensors, name: tensors[name] + 0.1}, file, metadata={"format": "pt"})
    return tmp_path


@pytest.fixture(scope="module")
def tiny_sd15(tmp_path_factory):
    return tiny.sd15(tmp_path_factory.mktemp("tiny") / "sd15")


def test_other_weights_in_the_same_folder_are_refused(trained_on):
    with pytest.raises(CannotResume, match=r"weights of the sampler \(parts.unet\) are others .* sampler=sampler"):
        gf.resume(trained_on / "run", max_iterations=2, loss=warm, trust=True)


def test_other_weights_that_are_given_are_taken_with_a_warning(trained_on):
    sampler = gf.load_sampler("perflow", checkpoint=str(trained_on / "model"), image_size=16)
    with pytest.warns(UserWarning, match=r"parts.unet\) are others .* goes on with them"):
        gf.resume(trained_on / "run", max_iterations=2, sampler=sampler, loss=warm)


def test_on_another_machine_other_weights_are_told(trained_on, monkeypatch):
    from guideflow.storage import origins

    monkeypatch.setattr(origins, "machine", lambda device: {"device": "another"})
    with pytest.warns(UserWarning, match=r"parts.unet\) are others .* goes on with them"):
        gf.resume(trained_on / "run", max_iterations=2, loss=warm, trust=True)


def test_compiling_changes_no_checksum():
    from guideflow.storage import origins

    network = torch.nn.Linear(2, 3)
    plain, compiled = (
        origins.weights(SimpleNamespace(network=one)) for one in (network, torch.compile(network, backend="eager"))
    )
    assert plain == compiled and plain


def test_a_run_whose_reference_an_older_version_kept_otherwise_says_so_and_goes_on_with_its_loss(tmp_path, monkeypatch):
    from guideflow_avatars import identity

    face = gf.images.read_image(avatars.portrait("ada"))
    photo = torch.nn.functional.interpolate(face, (1100, 1100), mode="bicubic").clamp(0, 1)
    gf.images.save_image(tmp_path / "me.png", photo)
    with monkeypatch.context() as older:
        older.setattr(identity, "as_needed", lambda images, *_: images)
        loss = gf.load_loss("avatars-identity", reference=str(tmp_path / "me.png"))
    sampler = gf.load_sampler("avatars-perflow")
    gf.solve(sampler, loss, prompt="a person", candidates=1, max_iterations=0, save_to=tmp_path / "run")
    with pytest.raises(CannotResume, match=r"not 1100x1100.*another version of it kept more.*Begin anew") as caught:
        gf.resume(tmp_path / "run", max_iterations=0)
    typed = f"--loss avatars-identity:reference={tmp_path / 'me.png'}"
    assert caught.value.typed.endswith(f"if it is the same, give it again: {typed}.")
    assert main(["run", "--resume", "--out", str(tmp_path / "run"), "--iterations", "1", *typed.split()]) == 0


class Warm(gf.Loss):
    name = "warmth"

    def __init__(self):
        self._references = (torch.full((3, 8, 8), 0.5),)

    def __call__(self, image):
        return warm(image)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of PyTorch's own, while it compiles
@pytest.mark.parametrize("made", ["function", "loss", "module"])
def test_a_run_goes_on_with_its_loss_compiled_or_not(tmp_path, sampler, made):
    module = torch.nn.Sequential(torch.nn.AvgPool2d(16), torch.nn.Flatten(0), torch.nn.Unflatten(0, (-1, 3)))
    module.append(torch.nn.AvgPool1d(3)).append(torch.nn.Flatten(0))
    loss = {"function": warm, "loss": Warm(), "module": module}[made]
    compiled = torch.compile(loss, backend="eager")
    options = {"candidates": 1, "solver": "anchored"}
    whole = gf.solve(sampler, loss, max_iterations=2, **options)
    run = gf.solve(sampler, compiled, max_iterations=1, save_to=tmp_path, **options)
    assert [*run.history] == [*whole.history] and len(run.references) == len(whole.references)
    for given in (loss, compiled):
        assert torch.equal(gf.resume(tmp_path, loss=given, max_iterations=2).images, whole.images)


def test_a_sum_that_was_compiled_whole_has_lost_its_terms_and_is_refused(sampler):
    compiled = torch.compile(Warm() + 2 * Warm(), backend="eager")
    with pytest.raises(InvalidLoss, match="Compile each loss of the sum"):
        gf.solve(sampler, compiled, max_iterations=0)


def test_a_loss_whose_file_changed_a_little_is_told(tmp_path, sampler):
    file = tmp_path / "mine.py"
    file.write_text("def mine(x):\n    return x.mean((1, 2, 3))\n")
    gf.solve(sampler, gf.load_loss(f"{file}:mine"), max_iterations=1, candidates=1, save_to=tmp_path / "run")
    gf.resume(tmp_path / "run", max_iterations=1, loss=gf.load_loss(f"{file}:mine"))
    file.write_text("def mine(x):\n    return 1.0001 * x.mean((1, 2, 3))\n")
    with pytest.warns(UserWarning, match=r"mine.py is another file than the one that the solve was made with"):
        gf.resume(tmp_path / "run", max_iterations=1, loss=gf.load_loss(f"{file}:mine"))
