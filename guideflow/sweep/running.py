"""Run a sweep: what is lacking in its folder is solved, and every finished job is kept."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from guideflow.storage import versions
from guideflow.sweep import folder as about
from guideflow.sweep.jobs import Batch, Plan
from guideflow.sweep.spec import Spec
from guideflow.sweep.store import Keys, Store, tables
from guideflow.sweep.worker import Finished, Room, Worker


@dataclass(frozen=True)
class Counts:
    """How far a sweep is.

    Arguments:
        total: Jobs of the spec.
        done: Those that have a picture.
        failed: Those that failed.
        before: How many of both there were when it began.
    """

    total: int
    done: int = 0
    failed: int = 0
    before: int = 0

    @property
    def finished(self) -> int:
        """Jobs that need not be run any more."""
        return self.done + self.failed


Watch = Callable[[Counts, Finished | None], object]
"""Is told the counts, and what has come in since the last time."""

Engine = Callable[[Iterator[Batch], Room], Iterator[Finished]]
"""Solves batches; what it gives back may come in another order."""


def sweep(
    spec: Spec,
    out: str | PathLike[str],
    *,
    ray: str | None = None,
    retry_failed: bool = False,
    watch: Watch | None = None,
    engine: Engine | None = None,
) -> Counts:
    """Run what is lacking of a sweep in a folder.

    Whatever ends it early, the same call goes on: finished jobs are kept, and in the end the table has each job once.
    A job that fails is a row that says why.

    Arguments:
        spec: from `read_spec`, or made by hand.
        out: Folder, made if missing. It may hold a part of this sweep, or a sweep that the spec only adds jobs to.
        ray: Address of a Ray cluster to run on, "local" for one that is started on this machine and stopped in the end;
            None solves in this process.
        retry_failed: Run failed jobs again.
        watch: Called with the counts, at first and after each batch.
        engine: Solves batches instead.

    Returns:
        The counts in the end.

    Raises:
        FolderInUse: if the folder holds something else, a sweep with jobs that the spec lacks, or another process is at
            work in it.
        InvalidArgument: if the folder cannot be written, or references or their table cannot be read.
        KeyboardInterrupt: after Ctrl-C; what was finished is kept.
        OSError: if the disk is full, likewise.
    """
    plan, folder = Plan(spec), Path(out)
    about.check_out(folder)
    before = about.read_sweep(folder)
    if before is not None:
        about.check_adds(before, plan, folder, lambda names: _done_references(folder, names))
        _warn_of_versions(before)
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder)
    try:
        about.write_sweep(folder, plan, before)
        changed = about.changed_references(before, plan) if before else set()
        again = bool(changed) or retry_failed
        store.merge(_without(_failed(folder, None if retry_failed else changed)) if again else None)
        done, failed = Keys(table["job"].to_pylist() for table in tables(folder, ["job"])), len(_failed(folder))
        counts = Counts(len(plan), len(done) - failed, failed, len(done))
        return _run(store, plan, counts, done, engine or _engine(ray, spec), watch or (lambda *_: None))
    finally:
        store.close()


def finished(plan: Plan, out: str | PathLike[str]) -> int:
    """Count the jobs of a plan that are finished in a folder, which need not be there."""
    folder = Path(out)
    if not folder.is_dir() or about.read_sweep(folder) is None:
        return 0
    done = Keys(table["job"].to_pylist() for table in tables(folder, ["job"]))
    return len(plan) - sum(len(batch.jobs) for batch in plan.batches(done))


def _run(store: Store, plan: Plan, counts: Counts, done: Keys, engine: Engine, watch: Watch) -> Counts:
    watch(counts, None)
    room = Room(plan.spec.memory, plan.spec.device)
    if counts.finished < counts.total:
        found = engine(plan.batches(done), room)
        try:
            for finished in found:
                store.add(finished.rows, finished.pictures)
                counts = _counted(counts, finished)
                watch(counts, finished)
        except KeyboardInterrupt:
            store.merge()
            raise
        except OSError:  # a disk without room for pictures may have some for rows
            with suppress(OSError):
                store.flush()
            raise
        finally:
            close: Any = getattr(found, "close", None)
            if close is not None:  # a generator: it lets its workers go
                close()
    store.merge()
    return counts


def in_process(batches: Iterator[Batch], room: Room) -> Iterator[Finished]:
    """Solve in this process, one batch after the other."""
    worker = Worker(room)
    for batch in batches:
        yield worker.finish(batch)


def _engine(ray: str | None, spec: Spec) -> Engine:
    if ray is None:
        return in_process
    from guideflow.sweep.ray_engine import RayEngine

    return RayEngine(ray, spec.workers)


def _counted(counts: Counts, finished: Finished) -> Counts:
    jobs = {row["job"] for row in finished.rows}
    fails = len({row["job"] for row in finished.rows if row["status"] == "failed"})  # at whichever look
    return replace(counts, done=counts.done + len(jobs) - fails, failed=counts.failed + fails)


def _failed(folder: Path, references: set[str] | None = None) -> pa.Array:
    """Return the keys of jobs that failed; of those, if given, whose reference is one of some."""
    found = [pa.array([], pa.string())]
    for table in tables(folder, ["job", "status", "reference"]):
        mask = pc.equal(table["status"], "failed")
        if references is not None:
            mask = pc.and_(mask, pc.is_in(table["reference"], pa.array(sorted(references), pa.string())))
        found += table.filter(mask)["job"].chunks
    return pc.unique(pa.chunked_array(found))


def _without(jobs: pa.Array) -> Callable[[pa.Table], pa.Table]:
    """Leave out what is to be run again, with all its looks."""
    return lambda table: table.filter(pc.invert(pc.is_in(table["job"], jobs)))


def _done_references(folder: Path, names: set[str]) -> set[str]:
    if not names:
        return set()
    found = set[str]()
    for table in tables(folder, ["reference", "status"]):
        found |= set(table.filter(pc.equal(table["status"], "done"))["reference"].to_pylist())
    return found & names


def _warn_of_versions(before: dict[str, Any]) -> None:
    now = versions()
    for name, old in before["versions"].items():
        if now.get(name, old) != old:
            message = f"The sweep was begun with {name} {old} and goes on with {now[name]}; its table has rows of both."
            warnings.warn(message, stacklevel=3)
