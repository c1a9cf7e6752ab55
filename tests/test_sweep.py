"""Sweeps: every job is a row, whatever fails or is killed, and the same command goes on where it was stopped."""

import json
import os
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import guideflow as gf
from guideflow.__main__ import main
from guideflow.errors import FolderInUse, InvalidArgument
from guideflow.sweep import Batch, Plan, Spec, read, store, sweep
from guideflow.sweep.reading import parse_spec
from guideflow.sweep.running import in_process
from guideflow.sweep.worker import Finished, Room
from processes import ended, forked, killed

LOSSES = """
import pathlib, time
import torch
import guideflow as gf
from guideflow import images

def bright(image, target: float = 0.5):
    return (image.flatten(1).mean(1) - target).square()

def _red(image):
    return image[:, 0].mean((1, 2)) > image[:, 2].mean((1, 2)) + 0.05

def faceless(image):
    if _red(image).any():
        raise gf.errors.InvalidImage("There is no face in a picture.")
    return bright(image)

def leaves(image):
    if _red(image).any():
        raise SystemExit(3)
    return bright(image)

def nan(image):
    return bright(image) * torch.where(_red(image), torch.nan, 1.0)

def large(image, most: int = 2):
    if len(image) > most:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 3 bytes")
    return bright(image)

def awaits(image):
    if not pathlib.Path("there").exists():
        raise FileNotFoundError("there")
    return bright(image)

def slow(image):
    pathlib.Path("started").touch()
    time.sleep(0.05)
    return bright(image)

class Like(gf.Loss):
    def __init__(self, reference: str):
        self.target = images.read_image(reference, size=8)

    def __call__(self, image):
        return (image - self.target).square().flatten(1).mean(1)
"""
MEASURED = ("seconds", "peak_memory")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(os, "fsync", lambda file: None)  # what is killed needs no wait for the disk
    Path("losses.py").write_text(LOSSES)
    for i, name in enumerate(("ann", "bob")):
        gf.images.save_image(f"people/{name}.png", torch.full((3, 8, 8), 0.3 + i / 5))
    return tmp_path


def spec(more: str = "", loss: str = "losses.py:bright", references: str = "") -> Spec:
    text = f"sampler: {{name: toy-mixture, options: {{size: 8, num_steps: 2}}}}\nloss: {loss}\nsolver: anchored\n"
    text += f"references: {references}\n" if references else ""
    return parse_spec(text + "solve: {max_iterations: 1, candidates: 1}\n" + more)


FOUR = "prompts: [red disc, blue ring]\nseeds: [0, 1]\n"


def rows(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The table by job, without what is measured."""
    table = read(folder).to_pylist()
    found = {row["job"]: {name: value for name, value in row.items() if name not in MEASURED} for row in table}
    assert len(found) == len(table), "no job is there twice"
    return found


def files(folder: str | Path) -> dict[str, bytes]:
    """The pictures of a folder, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.suffix == ".png"
    }


def test_every_job_is_a_row_with_its_pictures() -> None:
    made = spec(FOUR, loss="[losses.py:Like, {terms: [{name: losses.py:Like}, {name: losses.py:bright, weight: 0.5}]}]",
                references="people")  # fmt: skip
    counts = sweep(made, "out")
    assert (counts.total, counts.done, counts.failed) == (16, 16, 0)
    found = rows("out")
    assert found.keys() == {job.key for batch in Plan(made).batches() for job in batch.jobs}
    for row in found.values():
        assert row["status"] == "done" and row["error"] is None and row["guideflow"]
        assert row["loss_value"] <= row["start_loss"] and row["network_evaluations"] == 4 and row["batch"] == 8
        for kind in ("image", "unguided"):
            assert gf.images.read_image(Path("out", row[kind])).shape == (1, 3, 8, 8)
        assert gf.images.read_metadata(Path("out", row["image"]))["guideflow:job"] == row["job"]
    assert len({row["config"] for row in found.values()}) == 2 and len({row["image"] for row in found.values()}) == 16
    assert len({row["unguided"] for row in found.values()}) == 4, "what no loss changes is there once"
    assert {row["reference"] for row in found.values()} == {"people/ann.png", "people/bob.png"}
    assert all(value > 0 for value in read("out", ["seconds"])["seconds"].to_pylist())


def test_a_row_is_what_solve_makes_of_it() -> None:
    sweep(spec(FOUR, references="people", loss="losses.py:Like"), "out")
    row = next(row for row in rows("out").values() if row["prompt"] == "blue ring" and row["seed"] == 1)
    loss = gf.load_loss("losses.py:Like", reference=row["reference"])
    sampler = gf.load_sampler("toy-mixture", size=8, num_steps=2)
    alone = gf.solve(sampler, loss, prompt="blue ring", seed=1, solver="anchored", max_iterations=1)
    assert row["loss_value"] == pytest.approx(float(alone.loss[0]), rel=1e-5)
    difference = gf.images.read_image(Path("out", row["image"])) - alone.images
    assert difference.abs().max() < 0.51 / 255


def test_vectors_have_rows_and_no_pictures() -> None:
    made = parse_spec("sampler: toy-linear\nloss: losses.py:bright\nsolver: anchored\nsolve: {max_iterations: 1}")
    assert sweep(made, "out").done == 1
    (row,) = rows("out").values()
    assert row["image"] is None and row["loss_value"] is not None and files("out") == {}


@pytest.mark.parametrize(
    ("loss", "told"),
    [("faceless", "There is no face in a picture."), ("leaves", "SystemExit: 3"), ("nan", "The unguided image's loss")],
)
def test_what_fails_is_a_row_that_says_why_and_the_others_are_as_if_alone(loss: str, told: str) -> None:
    counts = sweep(spec(FOUR, f"losses.py:{loss}"), "out")
    assert (counts.done, counts.failed) == (2, 2)
    found = rows("out").values()
    assert {row["status"] for row in found if row["prompt"] == "red disc"} == {"failed"}
    for row in found:
        if row["status"] == "failed":
            assert row["error"].startswith(told) and row["image"] is None and row["config"] and row["options"]
        else:
            assert row["error"] is None and Path("out", row["image"]).is_file()


def test_what_needs_more_memory_than_there_is_is_solved_in_smaller_batches_and_fails_only_by_itself() -> None:
    sweep(spec("seeds: {start: 0, count: 7}\n", "losses.py:large"), "out")
    assert {row["batch"] for row in rows("out").values()} == {1, 2}
    assert {row["status"] for row in rows("out").values()} == {"done"}
    sweep(spec("seeds: [0, 1]\n", "{name: losses.py:large, options: {most: 0}}"), "none")
    assert all("not enough memory" in row["error"] for row in rows("none").values())


def test_batches_are_as_large_as_the_memory_allows() -> None:
    sweep(spec("seeds: {start: 0, count: 3}\nmemory: 1 MB\n"), "small")
    sweep(spec("seeds: {start: 0, count: 3}\nmemory: 1 TB\n"), "large")
    assert {row["batch"] for row in rows("small").values()} == {1}
    assert {row["batch"] for row in rows("large").values()} == {3}
    assert rows("small").keys() == rows("large").keys()


def test_a_damaged_reference_fails_until_it_is_mended() -> None:
    Path("people/bob.png").write_bytes(b"no picture")
    made = spec(FOUR, "losses.py:Like", references="people")
    counts = sweep(made, "out")
    assert (counts.done, counts.failed) == (4, 4)
    assert all("people/bob.png is not an image" in (row["error"] or "") for row in rows("out").values()
               if row["reference"] == "people/bob.png")  # fmt: skip
    gf.images.save_image("people/bob.png", torch.full((3, 8, 8), 0.7))
    counts = sweep(made, "out")
    assert (counts.before, counts.done, counts.failed, len(rows("out"))) == (4, 8, 0, 8)
    gf.images.save_image("people/bob.png", torch.full((3, 8, 8), 0.9))
    with pytest.raises(FolderInUse, match=r"people/bob\.png as it was before: the file has changed"):
        sweep(made, "out")


def test_a_manifest_with_anything_in_it_is_refused_in_one_line() -> None:
    sweep(spec(FOUR), "out")
    path, junk = Path("out/manifest.json"), (None, True, 3, 0.5, "x", [], [[]], {}, {"a": 1})
    good = json.loads(path.read_text())
    fields = ("begun", "versions", "samplers", "losses", "solvers", "solve", "looks", "references", "spec")
    edited = [good | {name: value} for name in fields for value in junk if type(value) is not type(good[name])]
    edited += [{name: value for name, value in good.items() if name != left} for left in fields]
    edited += [good | {"references": [one]} for one in ("x", {}, {"name": {}})]
    edited += [good | {"sweep": 1, "versions": None}, good | {"spec": good["spec"] | {"seeds": 2**70}}]
    for one in edited:
        path.write_text(json.dumps(one))
        with pytest.raises((InvalidArgument, FolderInUse), match=r"^out"):
            sweep(spec(FOUR), "out")
    path.write_text(json.dumps(good | {"spec": good["spec"] | {"seeds": {"start": 0, "count": 10**9}}}))
    with pytest.raises(FolderInUse, match="lacks jobs of: seed 2"):  # and does not count to the end
        sweep(spec(FOUR), "out")
    path.write_text(json.dumps(good))
    assert sweep(spec(FOUR), "out").before == 4


def test_failed_jobs_are_run_again_when_asked() -> None:
    made = spec(FOUR, "losses.py:awaits")
    assert sweep(made, "out").failed == 4
    Path("there").touch()
    assert sweep(made, "out").failed == 4, "not by themselves"
    counts = sweep(made, "out", retry_failed=True)
    assert (counts.done, counts.failed, len(rows("out"))) == (4, 0, 4)


def test_a_spec_may_add_jobs_and_nothing_else() -> None:
    small, more = spec("prompts: [red]"), spec("prompts: [red, green]\nseeds: [0, 1]")
    sweep(small, "out")
    first = rows("out")
    assert sweep(more, "out").before == 1
    assert len(rows("out")) == 4 and first.items() <= rows("out").items()
    lacking = {
        "prompts: [red]\nseeds: [0, 1]": "prompt 'green'",
        "prompts: [red, green]": "seed 1",
        "prompts: [blue]\nseeds: {start: 5, count: 9}": "prompt 'red'; prompt 'green'; seed 0 and 1 more",
    }
    for text, told in lacking.items():
        with pytest.raises(FolderInUse, match=f"lacks jobs of: {told}. A spec may only add"):
            sweep(spec(text), "out")
    other = spec("prompts: [red, green]\nseeds: [0, 1]", "{name: losses.py:bright, options: {target: 0.2}}")
    with pytest.raises(FolderInUse, match=r"lacks jobs of: loss losses.py:bright\. A spec"):
        sweep(other, "out")
    assert len(rows("out")) == 4, "and nothing has changed"


def test_a_folder_that_is_in_use_is_refused() -> None:
    gf.solve(gf.load_sampler("toy-mixture", size=8), lambda x: x.flatten(1).mean(1), max_iterations=0, save_to="solve")
    Path("other").mkdir()
    Path("other/thesis.tex").touch()
    for folder, told in {"solve": "holds another run", "other": "holds other files, such as thesis.tex"}.items():
        with pytest.raises(FolderInUse, match=told):
            sweep(spec(), folder)
    with pytest.raises(gf.errors.InvalidArgument, match=r"losses.py is a file"):
        sweep(spec(), "losses.py")


def command(text: str, *more: str) -> int:
    Path("spec.yaml").write_text(text)
    return main(["sweep", "spec.yaml", "--out", "out", *more])


SPEC = "sampler: {name: toy-mixture, options: {size: 8, num_steps: 2}}\nloss: losses.py:LOSS\nsolver: anchored\n"
SPEC += "solve: {max_iterations: 1, candidates: 1}\n" + FOUR


def test_the_command_tells_what_came_of_it(capsys: Any) -> None:
    assert command(SPEC.replace("LOSS", "faceless")) == 0
    captured = capsys.readouterr()
    assert "2 of 4 jobs done, 2 failed." in captured.out and "  2 x There is no face in a picture." in captured.out
    assert "guideflow sweep spec.yaml --out out --retry-failed" in captured.out
    assert "guideflow evaluate out" in captured.out
    assert captured.err.splitlines()[-1] == "4 of 4 jobs, 2 failed"
    assert command(SPEC.replace("LOSS", "bright").replace("0, 1", "[]")) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("guideflow: spec.yaml, line 6, seeds: ") and captured.err.count("\n") == 1
    assert main(["sweep"]) == 2 and "--example" in capsys.readouterr().err
    assert main(["sweep", "--example"]) == 0 and "sampler: avatars-perflow" in capsys.readouterr().out


def test_a_sweep_of_which_nothing_succeeds_is_no_success() -> None:
    assert command(SPEC.replace("LOSS", "awaits")) == 1


def test_a_dry_run_counts_and_estimates(capsys: Any) -> None:
    assert command(SPEC.replace("LOSS", "bright"), "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "jobs        4\n" in shown and "time        about 0 s" in shown and "memory      about" in shown
    assert not Path("out").exists()
    assert command(SPEC.replace("LOSS", "bright")) == 0 == command(SPEC.replace("LOSS", "bright"), "--dry-run")
    assert "jobs        4, 4 of them finished in out" in capsys.readouterr().out
    assert command(SPEC.replace("LOSS", "awaits"), "--dry-run") == 0
    assert "unknown     toy-mixture with losses.py:awaits: FileNotFoundError: there" in capsys.readouterr().out
    assert command(SPEC.replace("LOSS", "bright"), "--dry-run", "--ray") == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking beside threads
def test_killed_again_and_again_a_sweep_ends_as_if_it_had_not_been(monkeypatch: Any) -> None:
    monkeypatch.setattr(store, "_SECONDS", 0.02)
    monkeypatch.setattr(store, "_MANY", 5)
    made = spec("prompts: [red disc, blue ring]\nseeds: {start: 0, count: 40}\nbatch: 2\n", "losses.py:nan")
    began = time.monotonic()
    assert sweep(made, "whole").total == 80
    took = time.monotonic() - began

    def compare() -> None:
        sweep(made, "out")
        assert rows("out") == rows("whole") and files("out") == files("whole")
        assert not list(Path("out").rglob("*.part"))
        shutil.rmtree("out")

    killed(lambda: sweep(made, "out") and 0, 20, took, compare)
    compare()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ctrl_c_leaves_a_folder_that_the_same_command_goes_on_with(capfd: Any) -> None:
    text = SPEC.replace("LOSS", "slow").replace("seeds: [0, 1]", "seeds: {start: 0, count: 20}\nbatch: 1")

    def work() -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which the tests' own shell may have switched off
        return command(text)

    process = forked(work)
    while not list(Path("out/parts").glob("*.parquet")):
        time.sleep(0.02)
    os.kill(process, signal.SIGINT)
    assert ended(process) == 130
    told = capfd.readouterr().err.splitlines()[-1]
    assert told.startswith("guideflow: Interrupted: ") and "Go on with: guideflow sweep spec.yaml --out out" in told
    assert 0 < len(rows("out")) < 40 and not list(Path("out/parts").iterdir())
    assert command(text.replace("batch: 1", "batch: 8")) == 0 and len(rows("out")) == 40


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_full_disk_loses_nothing_that_was_finished(capfd: Any) -> None:
    def small_files() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
        return command(SPEC.replace("LOSS", "bright"))

    assert ended(forked(small_files)) == 2
    told = capfd.readouterr().err.splitlines()[-1]
    assert "File too large" in told and "Make room, then go on with: guideflow sweep spec.yaml --out out" in told
    assert command(SPEC.replace("LOSS", "bright")) == 0
    sweep(spec(FOUR), "whole")
    assert rows("out") == rows("whole") and files("out") == files("whole")


def test_a_million_jobs_need_no_more_memory_in_the_driver_than_a_few() -> None:
    """Simulated, at a smaller size; `benchmarks/sweeps.py` has the whole."""
    import tracemalloc

    def nothing(batches: Any, room: Room) -> Any:
        for batch in batches:
            yield Finished([{"job": job.key, "status": "done"} for job in batch.jobs], {})

    peaks = []
    for count in (1_000, 10_000):
        made = spec(f"seeds: {{start: 0, count: {count}}}\nbatch: 500")
        tracemalloc.start()
        assert sweep(made, f"out-{count}", engine=nothing).done == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0] + 3e7


def test_an_engine_sees_batches_of_one_config_and_any_references() -> None:
    seen: list[Batch] = []

    def look(batches: Any, room: Room) -> Any:
        return in_process((seen.append(batch) or batch for batch in batches), room)

    sweep(spec(FOUR + "batch: 3", "losses.py:Like", references="people"), "out", engine=look)
    assert [[job.reference.name[7:10] for job in batch.jobs] for batch in seen] == [
        ["ann"] * 3, ["ann", "bob", "bob"], ["bob"] * 2
    ]  # fmt: skip
