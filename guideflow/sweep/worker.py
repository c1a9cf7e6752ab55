"""What solves batches, and turns whatever goes wrong into rows."""

import gc
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from guideflow._solve import solve
from guideflow.errors import OutOfMemory
from guideflow.losses.by_image import by_image, outline
from guideflow.memory import ran_out
from guideflow.settings import Result
from guideflow.sweep import parts
from guideflow.sweep.holding import Held
from guideflow.sweep.jobs import Batch, Job
from guideflow.sweep.rows import Looks, Row, failed, report, until, why
from guideflow.types import LossLike


@dataclass(frozen=True)
class Finished:
    """The rows of a batch, and its pictures by where they go in the folder."""

    rows: list[Row]
    pictures: dict[str, bytes]

    def add(self, rows: list[Row], pictures: Mapping[str, bytes]) -> None:
        """Add what came of some jobs."""
        self.rows.extend(rows)
        self.pictures.update(pictures)


@dataclass(frozen=True)
class Room:
    """What a worker may take: bytes in all or None, a device or None, threads or None."""

    memory: float | None = None
    device: str | None = None
    threads: int | None = None


@dataclass(frozen=True)
class _Parts:
    sampler: Any
    losses: Mapping[str, LossLike]
    solver: Any
    weights: Row


class Worker:
    """Solves batches one after the other, in this process or in an actor of Ray's."""

    def __init__(self, room: Room = Room(), folder: str | None = None) -> None:
        self.room = room
        if folder is not None and os.path.isdir(folder):
            os.chdir(folder)  # relative paths are those of who asked
        if room.threads is not None:
            torch.set_num_threads(room.threads)
        self._held = Held(room.device, room.memory)

    def ready(self) -> int:
        """Tell that it is there, by its process."""
        return os.getpid()

    def finish(self, batch: Batch) -> Finished:
        """Solve a batch; every job of it comes back as a row, with its pictures or with its error."""
        finished, held, config = Finished([], {}), self._held, batch.config

        def lost(jobs: Sequence[Job], error: BaseException) -> None:
            finished.add(failed(batch, jobs, why(error)), {})

        together: dict[Hashable, list[Job]] = {}
        try:
            sampler, solver = held.sampler(config), parts.load_solver(config.solver)
            losses = held.losses(config, batch.jobs, lost)
            for job in batch.jobs:
                if job.key in losses:
                    together.setdefault(outline(losses[job.key]), []).append(job)
            for jobs in together.values():
                size = held.fit(config, sampler, losses[jobs[0].key], len(jobs))
                made = _Parts(sampler, losses, solver, held.weights(config, sampler, losses[jobs[0].key]))
                for first in range(0, len(jobs), size):
                    self._solve(batch, jobs[first : first + size], made, finished)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may raise anything, SystemExit too
            there = {row["job"] for row in finished.rows}
            finished.add(failed(batch, [job for job in batch.jobs if job.key not in there], why(error)), {})
        return finished

    def _solve(self, batch: Batch, jobs: Sequence[Job], made: _Parts, finished: Finished) -> None:
        looks = Looks(batch.config.looks)
        try:
            with _counted(made.sampler):
                solution = solve(
                    made.sampler,
                    by_image([made.losses[job.key] for job in jobs]),
                    prompt=[job.prompt for job in jobs],
                    seed=[job.seed for job in jobs],
                    solver=made.solver,
                    callback=looks,
                    memory_limit=self.room.memory,
                    **batch.config.solve,
                )
            if Result.INTERRUPTED in solution.result:
                raise KeyboardInterrupt
            reached = {look: looks.found.get(look, solution) for look in batch.config.iterations}
            rows, pictures = report(batch, jobs, reached, made.weights)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            told, full = why(error), _ran_out(error)
        else:
            finished.add(rows, pictures)
            return
        if len(jobs) == 1:
            finished.add(*until(batch, jobs, looks.found, made.weights, told))
            return
        looks.found.clear()
        if full:  # only here, outside the handler, the failed attempt's tensors are gone
            gc.collect()
            torch.cuda.empty_cache()
        half = (len(jobs) + 1) // 2 if full else 1  # as many as there is memory for, or which of them it was
        for first in range(0, len(jobs), half):
            self._solve(batch, jobs[first : first + half], made, finished)


@contextmanager
def _counted(sampler: Any) -> Iterator[None]:
    """Let the peak of a GPU's memory be that of this solve."""
    if sampler.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(sampler.device)
    yield


def _ran_out(error: BaseException) -> bool:
    """Tell whether an error, or the one that it was made of, says that there is no memory left."""
    return isinstance(error, OutOfMemory) or any(one is not None and ran_out(one) for one in (error, error.__cause__))
