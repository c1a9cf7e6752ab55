"""A saved folder with anything in it: `guideflow run --resume` goes on, or ends in one line and touches nothing."""

import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import guideflow as gf
from guideflow import images
from guideflow.__main__ import main
from guideflow.errors import CannotResume

JUNK: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    3,
    2**70,
    0.5,
    float("nan"),
    1e400,
    "",
    "x",
    "../x",
    "[/]\x1b[2J",
    [],
    [[]],
    {},
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> Path:
    """A small run that can be resumed from the folder alone, with a reference."""
    folder: Path = tmp_path_factory.mktemp("saved")
    images.save_image(folder / "grey.png", torch.full((3, 8, 8), 0.25))
    (folder / "loss.py").write_text("")
    loss = gf.load_loss("avatars-style", reference=str(folder / "grey.png"))
    sampler = gf.load_sampler("toy-mixture", size=16, num_steps=2)
    solver = gf.Momentum(gf.FlowGrad())
    gf.solve(sampler, loss, solver=solver, seed=[1, 2], prompt=["a", "b"], max_iterations=2).save(folder / "run")
    return folder / "run"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from places(inner, (*path, key))


def mutate(manifest: Any, path: tuple[Any, ...], draw: random.Random) -> Any:
    inner = manifest
    for key in path[:-1]:
        inner = inner[key]
    way = draw.randrange(4)
    if way == 0:
        del inner[path[-1]]
    elif way == 1 and isinstance(inner[path[-1]], list):
        inner[path[-1]] = inner[path[-1]] * 2
    else:
        inner[path[-1]] = draw.choice(JUNK)
    return manifest


def resumed(folder: Path, capsys: Any) -> int:
    """Resume on the command line: it works, or ends in one line."""
    outside = {path: path.read_bytes() for path in folder.parent.iterdir() if path.is_file()}
    began = time.monotonic()
    code = main(["run", "--resume", "--out", str(folder), "--iterations", "3"])
    assert time.monotonic() - began < 20
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err and "\x1b[2J" not in captured.out + captured.err
    assert {path: path.read_bytes() for path in folder.parent.iterdir() if path.is_file()} == outside
    assert (folder / "mine.txt").read_text() == "mine"
    if code == 0:
        gf.Solution.load(folder)
    else:
        told = [line for line in captured.err.splitlines() if line.startswith("guideflow: ")]
        assert code in (1, 2) and len(told) == 1 and len(told[0]) < 1500, captured.err
    return code


def copied(saved: Path, tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    shutil.copytree(saved, folder)
    (folder / "mine.txt").write_text("mine")
    return folder


def test_what_is_whole_goes_on(saved: Path, tmp_path: Path, capsys: Any) -> None:
    assert resumed(copied(saved, tmp_path, "run"), capsys) == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(2))
def test_an_edited_manifest_is_one_line(seed: int, saved: Path, tmp_path: Path, capsys: Any) -> None:
    draw, codes = random.Random(seed), []
    for number in range(40):
        folder = copied(saved, tmp_path, str(number))
        manifest = json.loads((folder / "manifest.json").read_text())
        mutate(manifest, draw.choice(list(places(manifest))), draw)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        codes.append(resumed(folder, capsys))
        shutil.rmtree(folder)
    assert codes.count(0) > 3 and codes.count(2) > 10, "the comparison would be empty"


def renamed(folder: Path, old: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors as the save would have, checksum and all."""
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, folder / "new")
    digest = hashlib.sha256((folder / "new").read_bytes()).hexdigest()[:16]
    name = "-".join([*old.stem.split("-")[:-1], digest]) + ".safetensors"
    (folder / "new").rename(folder / name)
    manifest = (folder / "manifest.json").read_text().replace(old.name, name)
    (folder / "manifest.json").write_text(manifest)


@pytest.mark.filterwarnings("ignore")
def test_edited_tensors_are_one_line(saved: Path, tmp_path: Path, capsys: Any) -> None:
    draw, codes = random.Random(0), list[int]()
    changes = [
        lambda value: value[:1],
        lambda value: value.to(torch.float16),
        lambda value: value.double(),
        lambda value: value.long(),
        lambda value: value[..., None],
        lambda value: value * torch.nan,
        lambda value: value.new_empty(0),
    ]
    for number in range(40):
        folder = copied(saved, tmp_path, str(number))
        file = draw.choice(sorted(folder.glob("*.safetensors")))
        tensors = load_file(file)
        name = draw.choice(sorted(tensors))
        value, change = tensors.pop(name), draw.choice([*changes, None])
        if change is not None and value.dim():
            tensors[name] = change(value)
        renamed(folder, file, tensors)
        codes.append(resumed(folder, capsys))
        shutil.rmtree(folder)
    assert codes.count(2) > 15


def test_damaged_bytes_are_one_line(saved: Path, tmp_path: Path, capsys: Any) -> None:
    draw = random.Random(0)
    for number in range(30):
        folder = copied(saved, tmp_path, str(number))
        file = draw.choice(sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors")))
        content = bytearray(file.read_bytes())
        way = draw.randrange(3)
        if way == 0:
            content = content[: draw.randrange(len(content))]
        elif way == 1:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        else:
            content[:8] = (2**62).to_bytes(8, "little")
        file.write_bytes(content)
        if resumed(folder, capsys) == 0:
            assert file.name == "manifest.json", "a changed bit of a text still says something"
        shutil.rmtree(folder)


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_pipes_devices_and_folders_are_refused_at_once(put: Any, saved: Path, tmp_path: Path, capsys: Any) -> None:
    names = [path.name for path in saved.iterdir() if path.suffix in (".json", ".safetensors")]
    for name in names:
        folder = copied(saved, tmp_path, name)
        solution = gf.Solution.load(folder)
        (folder / name).unlink()
        put(folder / name)
        assert resumed(folder, capsys) == 2
        if name == "manifest.json":  # and saving does not wait for it either
            with pytest.raises(gf.errors.FolderInUse):
                solution.save(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "3", "", "\ufeff{}", '"' * 10], ids=range(7))
def test_a_manifest_that_is_none_is_one_line(text: str, saved: Path, tmp_path: Path, capsys: Any) -> None:
    folder = copied(saved, tmp_path, "run")
    solution = gf.Solution.load(folder)
    (folder / "manifest.json").write_text(text)
    assert resumed(folder, capsys) == 2
    with pytest.raises(gf.errors.FolderInUse):
        solution.save(folder)


def test_a_manifest_without_end_is_not_read(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path, "run")
    os.truncate(folder / "manifest.json", 10**12)
    with pytest.raises(CannotResume, match="more than 64 MB"):
        gf.Solution.load(folder)


@pytest.mark.parametrize(
    "reference", ["../grey.png", "grey.png", "/etc/passwd", "reference-0000000000000000.png", 3, []]
)
def test_a_manifest_cannot_make_load_read_pictures_elsewhere(reference: Any, saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path, "run")
    shutil.copy(saved.parent / "grey.png", tmp_path)
    shutil.copy(saved.parent / "grey.png", folder)
    os.symlink(tmp_path / "grey.png", folder / "reference-0000000000000000.png")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"references": [reference]}))
    with pytest.raises(CannotResume, match="no file of that folder"):
        gf.Solution.load(folder)


@pytest.mark.filterwarnings("ignore")
def test_what_is_evaluated_may_be_edited_as_well(saved: Path, tmp_path: Path, capsys: Any) -> None:
    folder = copied(saved, tmp_path, "run")
    good = json.loads((folder / "manifest.json").read_text())
    for name in ("configs", "stats", "images", "references", "run", "iteration", "versions", "settings"):
        for value in JUNK:
            (folder / "manifest.json").write_text(json.dumps(good | {name: value}))
            code = main(["evaluate", str(folder), "--metric", "seconds"])
            assert code in (0, 2), f"{name}={value!r}: {capsys.readouterr().err}"


EDITS: dict[str, Any] = {
    "seed": lambda folder, about: about["images"][0].update(seed=["x"]),
    "prompt": lambda folder, about: about["images"][0].update(prompt={"a": [1]}),
    "sampler": lambda folder, about: about["configs"]["sampler"].update(name={"name": "x"}),
    "loss": lambda folder, about: about["configs"]["loss"].update(name=2**70),
    "long file": lambda folder, about: about["tensors"].__setitem__(0, "a" * 5000),
    "long name": lambda folder, about: about["configs"]["solver"].update(name="a" * 5000),
    "loop": lambda folder, about: link(folder / "guided-00.png", "guided-00.png"),
    "loops": lambda folder, about: [link(folder / f"unguided-0{i}.png", f"unguided-0{1 - i}.png") for i in (0, 1)],
    "device": lambda folder, about: link(folder / "guided-00.png", "/dev/zero"),
    "outside": lambda folder, about: link(folder / "guided-00.png", "../../grey.png"),
    "pipe": lambda folder, about: ((folder / "guided-00.png").unlink(), os.mkfifo(folder / "guided-00.png")),
    "folder": lambda folder, about: ((folder / "guided-00.png").unlink(), (folder / "guided-00.png").mkdir()),
}


def link(path: Path, to: str) -> None:
    path.unlink()
    path.symlink_to(to)


def told(arguments: list[str], folder: Path, capsys: Any) -> int:
    """Call the command line: it works, or ends in one line; and it takes nothing of the user's away."""
    began = time.monotonic()
    code = main(arguments)
    assert time.monotonic() - began < 20
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("guideflow: ")]
    assert "Traceback" not in captured.err and "should not happen" not in captured.err, captured.err
    assert code in (0, 2) or arguments[0] == "verify", captured.err
    assert code != 2 or (lines and len(lines[-1]) < 1500), captured.err
    assert (folder / "mine.txt").read_text() == "mine"
    return code


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_folder_is_judged_or_refused(edit: str, saved: Path, tmp_path: Path, capsys: Any) -> None:
    folder = copied(saved, tmp_path, "run")
    about = json.loads((folder / "manifest.json").read_text())
    EDITS[edit](folder, about)
    (folder / "manifest.json").write_text(json.dumps(about))
    judge = ["evaluate", str(folder), "--metric", "distance", "--metric", "seconds"]
    codes = [told(one, folder, capsys) for one in (judge, ["report", str(folder)], ["verify", str(folder)])]
    assert codes[0] == 2 if edit in ("seed", "prompt", "sampler", "outside", "device") else codes[:2] == [0, 0]


@pytest.mark.filterwarnings("ignore")
def test_folders_that_are_edited_at_random_are_judged_or_refused(saved: Path, tmp_path: Path, capsys: Any) -> None:
    draw, codes = random.Random(1), list[int]()
    for number in range(6):
        folder = copied(saved, tmp_path, str(number))
        manifest = json.loads((folder / "manifest.json").read_text())
        mutate(manifest, draw.choice(list(places(manifest))), draw)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        file = draw.choice(sorted(path for path in folder.iterdir() if path.suffix in (".png", ".csv")))
        link(file, file.name) if draw.random() < 0.5 else file.write_bytes(b"x")
        codes.append(told(["evaluate", str(folder), "--metric", "seconds"], folder, capsys))
        told(["report", str(folder)], folder, capsys)
        told(["inspect", str(file)], folder, capsys)
    assert {0, 2} <= {*codes}
