"""Looks of a sweep: after some iterations, a row and a picture of what a job would have come to, had it ended there."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import guideflow as gf
from guideflow.__main__ import main
from guideflow.errors import FolderInUse, InvalidArgument
from guideflow.evaluation import evaluate, read_evaluation, report, summarise
from guideflow.sweep import Spec, read, sweep
from guideflow.sweep.reading import parse_spec

LOSSES = """
import pathlib
import torch

def bright(image):
    return (image.flatten(1).mean(1) - 0.9).square()

def jumps(image):
    with pathlib.Path("calls").open("a") as calls:
        calls.write("x")
    if pathlib.Path("calls").stat().st_size > 4 and not pathlib.Path("mended").exists():
        raise ValueError("no more")
    return bright(image)
"""
MEASURED = ("seconds", "peak_memory")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda file: None)
    Path("losses.py").write_text(LOSSES)


def spec(more: str, loss: str = "losses.py:bright", solver: str = "{name: anchored, options: {scale: 8}}") -> Spec:
    text = f"sampler: {{name: toy-mixture, options: {{size: 8, num_steps: 2}}}}\nloss: {loss}\nsolver: {solver}\n"
    return parse_spec(text + "prompts: [red disc, blue ring]\nseeds: [0, 1]\n" + more)


def by_look(folder: str) -> dict[int, dict[tuple[str, int], dict[str, Any]]]:
    """The rows of each iteration, by prompt and seed."""
    found: dict[int, dict[tuple[str, int], dict[str, Any]]] = {}
    for row in read(folder).to_pylist():
        rows = found.setdefault(row["iteration"], {})
        assert (row["prompt"], row["seed"]) not in rows, "no look is there twice"
        rows[row["prompt"], row["seed"]] = row
    return found


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_look_is_the_job_that_ends_there(keep: str) -> None:
    counts = sweep(spec(f"solve: {{max_iterations: 5, keep: {keep}, patience: 2}}\nlooks: [4, 0, 2, 2]\n"), "out")
    assert (counts.total, counts.done, counts.failed) == (4, 4, 0)
    found = by_look("out")
    assert list(found) == [0, 2, 4, 5]
    assert len({row["image"] for rows in found.values() for row in rows.values()}) == 16, "each its own picture"
    for look, rows in found.items():
        sweep(spec(f"solve: {{max_iterations: {look}, keep: {keep}, patience: 2}}\n"), f"to-{look}")
        (short,) = by_look(f"to-{look}").values()
        assert rows.keys() == short.keys()
        for case, row in rows.items():
            other = short[case]
            for column in ("image", "unguided"):
                mine, theirs = (
                    gf.images.read_image(Path(at, one[column])) for at, one in (("out", row), (f"to-{look}", other))
                )
                assert mine.equal(theirs)
            differ = {name for name in row if row[name] != other[name]} - set(MEASURED)
            assert differ <= {"job", "config", "options", "image"}
    assert [rows["red disc", 0]["network_evaluations"] for rows in found.values()] == [2, 6, 10, 12]
    seconds = [rows["red disc", 0]["seconds"] for rows in found.values()]
    assert seconds == sorted(seconds) and 0 < seconds[0] < seconds[-1]


def test_looks_go_on_with_their_jobs_and_count_with_them(capsys: Any) -> None:
    text = "solve: {max_iterations: [1, 3]}\nlooks: 1\nbatch: 1\n"
    seen = list[int]()

    def stop(counts: Any, finished: Any) -> None:
        seen.append(counts.finished)
        if counts.finished == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(spec(text), "out", watch=stop)
    assert seen == [0, 1, 2, 3, 4, 5] and read("out").num_rows == 4 + 2, "the first four end at the only look"
    counts = sweep(spec(text), "out")
    assert (counts.before, counts.total, counts.done) == (5, 8, 8)
    sweep(spec(text), "whole")
    plain = [
        {
            (row["job"], row["iteration"]): {k: v for k, v in row.items() if k not in MEASURED}
            for row in table.to_pylist()
        }
        for table in (read("out"), read("whole"))
    ]
    assert plain[0] == plain[1] and len(plain[0]) == 12
    Path("spec.yaml").write_text(json.dumps(spec(text).written()))
    assert main(["sweep", "spec.yaml", "--out", "out", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "jobs        8, 8 of them finished in out" in shown and "looks       after 1 iterations" in shown
    with pytest.raises(FolderInUse, match=r"lacks jobs of: looks \[1\], and not \[1, 2\]"):
        sweep(spec(text.replace("looks: 1", "looks: [1, 2]")), "out")


def test_what_was_reached_before_a_failure_is_kept_and_run_again_with_the_rest() -> None:
    made = spec("solve: {max_iterations: 4, candidates: 1}\nlooks: [2, 3]\n", "losses.py:jumps", "anchored")
    made = made.model_copy(update={"prompts": ["red disc"], "seeds": (0,)})
    counts = sweep(made, "out")
    assert (counts.done, counts.failed) == (0, 1)
    found = {look: row["red disc", 0] for look, row in by_look("out").items()}
    assert {look: row["status"] for look, row in found.items()} == {2: "done", 3: "done", 4: "failed"}
    assert found[4]["error"].startswith("ValueError: no more") and Path("out", found[3]["image"]).is_file()
    Path("mended").touch()
    assert sweep(made, "out").failed == 1 and sweep(made, "out", retry_failed=True).done == 1
    assert {row["red disc", 0]["status"] for row in by_look("out").values()} == {"done"}


@pytest.mark.parametrize(("looks", "told"), [
    ("[2, 9]", "line 7, looks: 9 is after the end: `max_iterations` is 5 at most."),
    ("[-1]", "expected numbers of iterations"),
    ("[1.5]", "expected numbers of iterations"),
    ("often", "expected numbers of iterations"),
])  # fmt: skip
def test_looks_that_cannot_be_are_refused(looks: str, told: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        spec(f"solve: {{max_iterations: [3, 5]}}\nlooks: {looks}\n")
    assert told in str(error.value)


def test_every_look_is_measured_and_is_a_configuration() -> None:
    sweep(spec("solve: {max_iterations: 4}\nlooks: [1, 2]\n", solver="[anchored, flowgrad]"), "out")
    metrics = ["guidance-loss", "distance", "diversity", "seconds"]
    evaluate("out", metrics)
    found = read_evaluation("out")
    assert {label: len(values) for label, values in found.values.items()} == dict.fromkeys(metrics, 24)
    summary = summarise(found)
    assert [one.title for one in summary.configurations] == [
        f"{solver}, iteration={look}" for solver in ("anchored", "flowgrad") for look in (1, 2, 4)
    ]
    assert all(len(one.rows) == 4 for one in summary.configurations)
    assert summary.baseline == summary.configurations[2].key, "the end of the first"
    losses = [summary.cells[one.key, "guidance-loss"].mean.mean for one in summary.configurations]
    assert losses[0] > losses[1] > losses[2] and losses[3] > losses[5], "each is measured by itself"
    page, _ = report(summary)
    assert (
        "8 jobs in 6 configurations, 0 failed" in page.read_text()
        and "guidance-loss over iteration" in page.read_text()
    )
    assert evaluate("out", metrics).values == found.values
