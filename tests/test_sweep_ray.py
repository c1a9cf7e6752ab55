"""Sweeps on Ray: workers may be killed at any moment, and what kills workers ends as a row. One start for all of it."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from guideflow.sweep import read, store, sweep
from guideflow.sweep.reading import parse_spec

LOSSES = """
import os, signal

def plain(image):
    return (image.flatten(1).mean(1) - 0.5).square()

def deadly(image):
    if (image[:, 0].mean((1, 2)) > image[:, 2].mean((1, 2)) + 0.05).any():
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(image)
"""
SPEC = """
sampler: {name: toy-mixture, options: {size: 8, num_steps: 2}}
loss: losses.py:plain
solver: anchored
solve: {max_iterations: 1, candidates: 1}
prompts: [blue ring, green ring]
seeds: {start: 0, count: 60}
batch: 2
workers: {count: 2, cpus: 0.5}
"""


def rows(folder: str) -> dict[str, dict[str, Any]]:
    table = read(folder).to_pylist()
    found = {row["job"]: {k: v for k, v in row.items() if k not in ("seconds", "peak_memory")} for row in table}
    assert len(found) == len(table), "no job is there twice"
    return found


def workers() -> list[int]:
    """Processes of Ray's workers that this process has started, through Ray's own."""
    parents, names = dict[int, int](), dict[int, bytes]()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(path.name)] = (path / "cmdline").read_bytes()
        except OSError:
            continue

    def ours(process: int) -> bool:
        return process == os.getpid() or (process in parents and process > 1 and ours(parents[process]))

    return [process for process, name in names.items() if name.startswith(b"ray::Worker") and ours(process)]


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_workers_that_are_killed_change_nothing_and_what_kills_them_is_a_row(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "_SECONDS", 0.05)
    Path("losses.py").write_text(LOSSES)
    moments, killed = random.Random(0), list[int]()

    def kill(counts: Any, finished: Any) -> None:
        if finished is not None and len(killed) < 4 and moments.random() < 0.2 and (there := workers()):
            killed.append(moments.choice(there))
            os.kill(killed[-1], signal.SIGKILL)

    whole = parse_spec(SPEC)
    sweep(whole, "alone")
    counts = sweep(whole, "ray", ray="local", watch=kill)
    assert killed and (counts.done, counts.failed) == (120, 0)
    assert rows("ray") == rows("alone")
    assert not workers(), "none is left"


@pytest.mark.filterwarnings("ignore")
def test_too_little_for_the_workers_is_told_before_the_work(tmp_path: Path, monkeypatch: Any) -> None:
    from guideflow.errors import InvalidArgument
    from guideflow.sweep.ray_engine import _number
    from guideflow.sweep.spec import Workers

    class Cluster:
        def cluster_resources(self) -> dict[str, float]:
            return {"CPU": 4.0, "GPU": 1.0}

    assert _number(Cluster(), Workers(cpus=1.5)) == 2 and _number(Cluster(), Workers(gpus=0.25)) == 4
    for wanted in (Workers(count=5), Workers(gpus=2), Workers(cpus=5)):
        with pytest.raises(InvalidArgument, match="4 cores and 1 GPUs, too little for `workers`"):
            _number(Cluster(), wanted)
