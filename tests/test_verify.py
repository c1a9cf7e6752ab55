"""Making a saved run again: what is the same, and what is named where something is not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import guideflow as gf
from guideflow import images
from guideflow.__main__ import main
from guideflow.errors import CannotResume, InvalidArgument
from problems import Distance, linear, mixture, target

WARM = "def warm(x):\n    return (x - 0.5).square().mean((1, 2, 3))\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A saved run of a sampler that pictures, with a loss that is given again."""
    sampler = gf.load_sampler("toy-mixture", size=16, num_steps=2)
    loss = Distance(target(sampler).float())
    gf.solve(sampler, loss, seed=[0, 1], max_iterations=4, keep="last", save_to=tmp_path / "run")
    return tmp_path / "run"


def loss() -> Any:
    return Distance(target(gf.load_sampler("toy-mixture", size=16)).float())


def edit(run: Path, **parts: Any) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | parts))


def test_a_run_is_made_again_bit_for_bit(run: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    found = gf.verify(run, loss=loss())
    assert found.same and not found.changes
    assert [(image.seed, image.difference) for image in found.images] == [(0, 0.0), (1, 0.0)]
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before, "nothing is written"


def test_so_is_one_that_was_resumed_or_stopped_early(tmp_path: Path) -> None:
    def stop(progress: Any) -> None:
        if progress.iteration == 2:
            raise KeyboardInterrupt

    sampler, task = mixture(), Distance(target(mixture()))
    gf.solve(sampler, task, max_iterations=9, callback=stop, patience=8, save_to=tmp_path)
    assert gf.verify(tmp_path, sampler=sampler, loss=task).same
    gf.resume(tmp_path, max_iterations=5, sampler=sampler, loss=task, save_to=tmp_path)
    assert gf.verify(tmp_path, sampler=sampler, loss=task).same


def test_what_is_no_picture_is_compared_by_its_values(tmp_path: Path) -> None:
    sampler = linear()
    gf.solve(sampler, Distance(target(sampler)), max_iterations=2, save_to=tmp_path)
    (found,) = gf.verify(tmp_path, sampler=sampler, loss=Distance(target(sampler))).images
    assert found.difference == 0 and found.what == "tensors"


@pytest.mark.parametrize("damage", ["pixel", "missing", "size"])
def test_another_picture_in_the_folder_is_noticed(damage: str, run: Path) -> None:
    file = run / "guided-01.png"
    picture = images.read_image(file)
    if damage == "pixel":
        picture[0, 0, 3, 4] += 0.5 if picture[0, 0, 3, 4] < 0.5 else -0.5
        images.save_image(file, picture)
    elif damage == "size":
        images.save_image(file, picture[..., 1:])
    else:
        file.unlink()
    found = gf.verify(run, loss=loss(), tolerance=100)
    assert not found.same and found.images[0].difference == 0 and found.images[1].what == "guided-01.png"
    assert found.images[1].difference > (100 if damage == "pixel" else 1e9)


def test_another_loss_gives_other_pictures(run: Path) -> None:
    found = gf.verify(run, loss=gf.as_loss(lambda x: x.square().mean((1, 2, 3)), "dark"))
    assert not found.same and found.images[0].difference > 1 and found.images[0].what
    assert gf.verify(run, loss=gf.as_loss(lambda x: x.square().mean((1, 2, 3))), tolerance=300).same


def test_what_has_changed_is_named(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["configs"]["machine"]["threads"] == torch.get_num_threads()
    versions = manifest["versions"] | {"torch": "1.0", "diffusers": None, "plugins": {"toy-mixture": "guideflow 0.0"}}
    edit(run, versions=versions)
    found = gf.verify(run, loss=loss())
    assert found.same
    assert any("versions, torch: 1.0 when it was made" in line for line in found.changes)
    assert any("toy-mixture: guideflow 0.0 when it was made" in line for line in found.changes)
    edit(run, versions=["damaged"])
    assert gf.verify(run, loss=loss()).same


def test_weights_have_a_checksum_that_changes_with_them(tmp_path: Path) -> None:
    class Network(gf.Loss):
        def __init__(self) -> None:
            self.parts = {"a": [torch.nn.Linear(3, 1)]}

        def __call__(self, image: Any) -> Any:
            return self.parts["a"][0](image.float().mean((2, 3)))[:, 0].square()

    sampler, network = gf.load_sampler("toy-mixture", size=16, num_steps=2), Network()
    gf.solve(sampler, 2 * network, max_iterations=2, save_to=tmp_path)
    recorded = json.loads((tmp_path / "manifest.json").read_text())["configs"]["weights"]
    assert recorded["sampler"] == {} and [len(one) for one in recorded["loss"].values()] == [64]
    assert gf.verify(tmp_path, loss=2 * network).changes == ()
    with torch.no_grad():
        network.parts["a"][0].weight[0, 0] += 1
    found = gf.verify(tmp_path, loss=2 * network)
    assert not found.same and [line for line in found.changes if line.startswith("weights, loss, ")]


def test_what_cannot_be_made_again_says_why(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotResume, match=r"loss was made by hand.*loss=loss"):
        gf.verify(run)
    with pytest.raises(CannotResume, match="No solution is saved"):
        gf.verify(tmp_path)
    with pytest.raises(InvalidArgument, match="tolerance"):
        gf.verify(run, loss=loss(), tolerance=-1)


def test_the_command_line(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("warm.py").write_text(WARM)
    base = ["run", "--sampler", "toy-mixture:size=16", "--loss", "warm.py:warm", "--iterations", "2", "--out", "run"]
    assert main(base) == 0
    assert main(["verify", "run"]) == 2
    assert "--loss" in capsys.readouterr().err
    assert main(["verify", "run", "--loss", "warm.py:warm"]) == 0
    assert "made again, and the same" in capsys.readouterr().out
    images.save_image("run/guided-00.png", images.read_image("run/guided-00.png").flip(-1))
    assert main(["verify", "run", "--loss", "warm.py:warm"]) == 1
    shown = capsys.readouterr().out
    assert "Not the same" in shown and "guided-00.png" in shown
