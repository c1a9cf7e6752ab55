"""Saving, loading, resuming and drawing solutions."""

import json
import os
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch

import guideflow as gf
from guideflow import images
from guideflow.errors import CannotResume, FolderInUse
from problems import SOLVERS, Distance, assert_same, linear, mixture, solve, target


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
@pytest.mark.parametrize("keep", ["best", "last"])
def test_ten_iterations_are_five_and_five(solver: Any, keep: str, tmp_path: Path) -> None:
    sampler = mixture(family="ancestral", dtype="float32")
    whole = solve(sampler, 10, solver=solver, keep=keep)
    half = solve(sampler, 5, solver=solver, keep=keep)
    half.save(tmp_path / "out")
    resumed = gf.resume(
        tmp_path / "out",
        max_iterations=10,
        sampler=mixture(family="ancestral", dtype="float32"),
        loss=whole.problem.loss,
    )
    assert_same(resumed, whole)
    assert_same(gf.resume(half, max_iterations=10), whole)


def test_resume_restores_what_had_stopped(tmp_path: Path) -> None:
    sampler = linear()
    options: dict[str, Any] = {"seed": [0, 1, 2, 3], "prompt": "", "solver": gf.Anchored(scale=40.0), "patience": 3}
    whole = solve(sampler, 40, **options)
    assert len(set(whole.history["loss"][-1].tolist())) == 4 and gf.Result.NO_IMPROVEMENT in whole.result
    part = solve(sampler, 5, **options)
    part.save(tmp_path)
    assert_same(gf.resume(tmp_path, max_iterations=40, sampler=sampler, loss=whole.problem.loss), whole)


def test_resume_from_configs_alone(tmp_path: Path) -> None:
    sampler = gf.load_sampler("toy-mixture", size=8, num_steps=2)
    part = gf.solve(sampler, Distance(target(sampler).float()), solver="flowgrad", max_iterations=2)
    part.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["configs"]["sampler"] == {"name": "toy-mixture", "options": {"size": 8, "num_steps": 2}}
    assert manifest["configs"]["loss"] is None and manifest["configs"]["solver"]["name"] == "flowgrad"
    with pytest.raises(CannotResume, match=r"gf\.resume\(\.\.\., loss=loss\)"):
        gf.resume(tmp_path, max_iterations=4)
    resumed = gf.resume(tmp_path, max_iterations=4, loss=Distance(target(sampler).float()))
    assert_same(resumed, gf.resume(part, max_iterations=4))


def test_save_writes_pictures_with_metadata_and_a_readable_history(tmp_path: Path) -> None:
    solution = solve(mixture(dtype="float32"), 3)
    solution.save(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("*.png")) == [
        f"{kind}-{i:02d}.png" for kind in ("guided", "unguided") for i in range(2)
    ]
    picture = images.read_image(tmp_path / "guided-01.png")
    torch.testing.assert_close(picture[0], solution.images[1], rtol=0, atol=0.51 / 255)
    metadata = images.read_metadata(tmp_path / "guided-01.png")
    assert metadata["guideflow:prompt"] == "blue" and metadata["guideflow:seed"] == "1"
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == "iteration,image,loss,distance,size,gradient_norm,control_norm" and len(lines) == 1 + 4 * 2
    assert not list(tmp_path.glob("*.part"))


def test_load_gives_back_what_was_saved(tmp_path: Path) -> None:
    solution = solve(mixture(), 3, patience=2, negative_prompt="disc")
    solution.save(tmp_path)
    loaded = gf.Solution.load(tmp_path)
    assert_same(loaded, solution)
    assert loaded.settings == solution.settings and loaded.settings.run == solution.settings.run
    assert loaded.solver is None and loaded.problem is None and loaded.configs == solution.configs
    assert torch.equal(loaded.references[0], solution.references[0])


def test_another_run_is_not_overwritten_silently(tmp_path: Path) -> None:
    first, second = solve(mixture(), 3), solve(mixture(), 1, prompt="red", seed=9)
    first.save(tmp_path)
    first.save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FolderInUse, match="overwrite=True"):
        second.save(tmp_path)
    assert_same(gf.Solution.load(tmp_path), first)
    second.save(tmp_path, overwrite=True)
    assert_same(gf.Solution.load(tmp_path), second)
    assert not (tmp_path / "guided-01.png").exists() and (tmp_path / "notes.txt").exists()
    assert sorted(path.name[:5] for path in tmp_path.glob("*.safetensors")) == ["start", "state"]


def test_interrupted_save_leaves_the_previous_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = solve(mixture(), 2)
    first.save(tmp_path)
    longer = gf.resume(first, max_iterations=4)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "save_image", fail)
    with pytest.raises(KeyboardInterrupt):
        longer.save(tmp_path)
    assert_same(gf.Solution.load(tmp_path), first)
    monkeypatch.undo()
    longer.save(tmp_path)
    assert_same(gf.Solution.load(tmp_path), longer)


def test_what_cannot_be_resumed_says_why(tmp_path: Path) -> None:
    with pytest.raises(CannotResume, match="No solution is saved"):
        gf.Solution.load(tmp_path)
    solution = solve(linear(), 2)
    solution.save(tmp_path)
    loss = solution.problem.loss
    with pytest.raises(CannotResume, match="sampler=sampler"):
        gf.resume(tmp_path, max_iterations=3, loss=loss)
    with pytest.raises(CannotResume, match="shape"):
        gf.resume(tmp_path, max_iterations=3, sampler=linear(num_steps=5), loss=loss)
    with pytest.raises(CannotResume, match="solver it was made with"):
        gf.resume(tmp_path, max_iterations=3, sampler=linear(), loss=loss, solver=gf.NoiseDescent())
    next(tmp_path.glob("*.safetensors")).write_bytes(b"cut short")
    with pytest.raises(CannotResume, match="damaged"):
        gf.Solution.load(tmp_path)


def test_manifest_cannot_make_save_remove_files_elsewhere(tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    solution = solve(mixture(), 1)
    solution.save(tmp_path / "out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    manifest["files"].append("../victim.txt")
    (tmp_path / "out/manifest.json").write_text(json.dumps(manifest))
    solution.save(tmp_path / "out")
    assert victim.read_text() == "precious"


def test_manifest_cannot_make_load_read_files_elsewhere(tmp_path: Path) -> None:
    solve(mixture(), 2).save(tmp_path / "theirs")
    solve(mixture(), 1).save(tmp_path / "out")
    elsewhere = next((tmp_path / "theirs").glob("*.safetensors"))
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    for name in (f"../theirs/{elsewhere.name}", str(elsewhere)):
        (tmp_path / "out/manifest.json").write_text(json.dumps(manifest | {"tensors": name}))
        with pytest.raises(CannotResume, match="no file of that folder"):
            gf.Solution.load(tmp_path / "out")


def test_a_link_does_not_make_load_read_files_elsewhere(tmp_path: Path) -> None:
    solve(mixture(), 1).save(tmp_path / "out")
    state = next((tmp_path / "out").glob("*.safetensors"))
    state.rename(tmp_path / state.name)
    state.symlink_to(tmp_path / state.name)
    with pytest.raises(CannotResume, match="no file of that folder"):
        gf.Solution.load(tmp_path / "out")
    state.unlink()
    os.mkfifo(state)  # would be waited for
    with pytest.raises(CannotResume, match="no file of that folder"):
        gf.Solution.load(tmp_path / "out")


@pytest.mark.parametrize("files", [["mine.txt", "guided-mine.png", ".", "..", "folder", 3, None], None, 5])
def test_a_manifest_cannot_make_save_remove_what_no_save_wrote(files: Any, tmp_path: Path) -> None:
    solution = solve(mixture(), 1)
    solution.save(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("mine.txt", "guided-mine.png", "folder/guided-00.png"):
        (tmp_path / name).write_text("precious")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
    gf.resume(solution, max_iterations=2).save(tmp_path)
    for name in ("mine.txt", "guided-mine.png", "folder/guided-00.png"):
        assert (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize("run", ["/../../a", "../../../etc", "", None, 3, "A" * 32, "0" * 31])
def test_a_manifest_cannot_name_the_files_that_are_written(run: Any, tmp_path: Path) -> None:
    solve(mixture(), 1).save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["settings"]["run"] = run
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CannotResume, match="is damaged"):
        gf.Solution.load(tmp_path)


def test_a_link_does_not_make_save_write_elsewhere(tmp_path: Path) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    solution = solve(mixture(), 1)
    solution.save(out)
    longer = gf.resume(solution, max_iterations=2)
    names = [path.name for path in out.iterdir()] + [f"state-{solution.settings.run[:8]}-000002.safetensors"]
    for name in names:
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(victim)
        for partial in (f"{name}.part", f".{name}.part"):
            (out / partial).symlink_to(victim)
    (out / "manifest.json").unlink()
    longer.save(out)
    assert victim.read_text() == "precious"
    assert_same(gf.Solution.load(out), longer)


def test_twelve_references_come_back_in_their_order(tmp_path: Path) -> None:
    solution = replace(solve(mixture(), 1), references=tuple(torch.full((3, 2, 2), i / 12) for i in range(12)))
    solution.save(tmp_path)
    assert [int(12 * one[0, 0, 0] + 0.5) for one in gf.Solution.load(tmp_path).references] == list(range(12))


def test_another_format_is_refused_with_the_version_that_reads_it(tmp_path: Path) -> None:
    solve(mixture(), 1).save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    old = manifest | {"format": 1, "versions": {"guideflow": "0.0.1"}}
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    with pytest.raises(CannotResume, match=r"format 1; this guideflow reads 3.*guideflow 0\.0\.1"):
        gf.Solution.load(tmp_path)


@pytest.mark.parametrize("sampler", [mixture(), linear()], ids=["pictures", "vectors"])
def test_plot_shows_pictures_and_curves(sampler: Any, tmp_path: Path) -> None:
    solution = solve(sampler, 4)
    figure = solution.plot()
    titles = [axis.get_title(loc) for axis in figure.axes for loc in ("left", "center")]
    assert {"loss", "distance", "size", "control norm"} <= set(titles)
    assert sum(bool(axis.images) for axis in figure.axes) == (5 if sampler.image_size[0] > 1 else 0)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert "2 images" in repr(solution)


def test_a_checkout_that_is_not_installed_saves_what_it_solved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("guideflow.storage.origins.version", absent)
    solution = gf.solve(linear(), Distance(target(linear())), max_iterations=1)
    solution.save(tmp_path / "run")
    assert '"guideflow": "not installed"' in (tmp_path / "run" / "manifest.json").read_text()
