"""Sweeps on Ray: workers may be killed at any moment, and what kills workers ends as a row. One start for all of it."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from guideflow.errors import InvalidArgument
from guideflow.sweep import Plan, read, store, sweep
from guideflow.sweep.ray_engine import RayEngine, WorkersFail, _number, _Pool
from guideflow.sweep.reading import parse_spec
from guideflow.sweep.spec import Workers
from guideflow.sweep.worker import Finished, Room

LOSSES = """
def plain(image):
    return (image.flatten(1).mean(1) - 0.5).square()
"""
SPEC = """
sampler: {name: toy-mixture, options: {size: 8, num_steps: 2}}
loss: losses.py:plain
solver: anchored
solve: {max_iterations: 1, candidates: 1}
prompts: [blue ring, green ring]
seeds: {start: 0, count: 30}
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_workers_that_are_killed_change_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "_SECONDS", 0.05)
    Path("losses.py").write_text(LOSSES)
    moments, killed = random.Random(0), list[int]()

    def kill(counts: Any, finished: Any) -> None:
        if finished is not None and len(killed) < 2 and moments.random() < 0.3 and (there := workers()):
            killed.append(moments.choice(there))
            os.kill(killed[-1], signal.SIGKILL)

    whole = parse_spec(SPEC)
    sweep(whole, "alone")
    counts = sweep(whole, "ray", ray="local", watch=kill)
    assert killed and (counts.done, counts.failed) == (60, 0)
    assert rows("ray") == rows("alone")
    assert not workers(), "none is left"


def test_too_little_for_the_workers_is_told_before_the_work() -> None:
    class Cluster:
        def cluster_resources(self) -> dict[str, float]:
            return {"CPU": 4.0, "GPU": 1.0}

    assert _number(Cluster(), Workers(cpus=1.5)) == 2 and _number(Cluster(), Workers(gpus=0.25)) == 4
    for wanted in (Workers(count=5), Workers(gpus=2), Workers(cpus=5)):
        with pytest.raises(InvalidArgument, match="4 cores and 1 GPUs, too little for `workers`"):
            _number(Cluster(), wanted)


class Died(Exception):
    pass


class FakeRay:
    """Ray's calls, made at once. A worker that meets a seed of 3 is gone; every third one ends before it is ready."""

    class exceptions:
        RayActorError = WorkerCrashedError = ObjectLostError = OutOfMemoryError = Died

    def __init__(self, always: bool = False) -> None:
        self.made, self.always = 0, always

    def remote(self, of: Any) -> Any:
        return self

    def options(self, **given: Any) -> Any:
        assert given == {"num_cpus": 1.0, "num_gpus": 0.0, "max_restarts": 0}
        owner = self

        class Calls:
            @staticmethod
            def remote(*given: Any) -> Any:
                owner.made += 1
                return FakeActor(owner, lost=owner.always or owner.made % 3 == 0)

        return Calls

    def wait(self, waiting: list[Any], num_returns: int, timeout: float) -> Any:
        assert waiting, "nothing would ever come"
        return waiting[:1], waiting[1:]

    def get(self, call: Any) -> Any:
        return call()

    def kill(self, actor: Any) -> None:
        pass


class FakeActor:
    def __init__(self, ray: FakeRay, lost: bool) -> None:
        self.lost = lost

    @property
    def ready(self) -> Any:
        return self._method(lambda: (_ for _ in ()).throw(Died) if self.lost else 1)

    @property
    def finish(self) -> Any:
        def finish(batch: Any) -> Finished:
            if any(job.seed == 3 for job in batch.jobs):
                raise Died
            return Finished([{"job": job.key, "status": "done", "seed": job.seed} for job in batch.jobs], {})

        return self._method(finish)

    def _method(self, call: Any) -> Any:
        class Method:
            @staticmethod
            def remote(*given: Any) -> Any:
                return lambda: call(*given)

        return Method


def test_a_job_that_kills_every_worker_fails_by_itself(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("losses.py").write_text(LOSSES)
    plan = Plan(parse_spec(SPEC.replace("count: 30", "count: 9").replace("batch: 2", "batch: 4")))
    pool = _Pool(FakeRay(), Workers(count=2), Room(), 2)
    found = [row for finished in pool.run(plan.batches()) for row in finished.rows]
    assert sorted(row["job"] for row in found) == sorted(job.key for batch in plan.batches() for job in batch.jobs)
    assert {row["seed"] for row in found if row["status"] == "failed"} == {3}
    assert all("killed 3 times at this job" in row["error"] for row in found if row["status"] == "failed")


def test_workers_that_never_start_end_the_sweep(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("losses.py").write_text(LOSSES)
    with pytest.raises(WorkersFail, match="5 workers ended before they were ready"):
        list(_Pool(FakeRay(always=True), Workers(count=2), Room(), 2).run(Plan(parse_spec(SPEC)).batches()))


def test_an_address_at_which_nothing_answers_is_refused_at_once() -> None:
    with pytest.raises(InvalidArgument, match=r"No Ray cluster answers at '127.0.0.1:1' .*`ray start --head`"):
        next(RayEngine("127.0.0.1:1", Workers())(iter(()), Room()))
