"""What solves batches: it keeps its sampler and its loss, and turns whatever goes wrong into rows."""

import gc
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from guideflow._solve import solve
from guideflow.errors import OutOfMemory
from guideflow.losses.fingerprints import fingerprints
from guideflow.memory import ran_out
from guideflow.settings import Result
from guideflow.sweep import parts
from guideflow.sweep.fitting import images_that_fit
from guideflow.sweep.jobs import Batch, Job
from guideflow.sweep.rows import Looks, Row, failed, report, until, why


@dataclass(frozen=True)
class Finished:
    """The rows of a batch, and its pictures by where they go in the folder."""

    rows: list[Row]
    pictures: dict[str, bytes]


@dataclass(frozen=True)
class Room:
    """What a worker may take: bytes in all or None, a device or None, threads or None."""

    memory: float | None = None
    device: str | None = None
    threads: int | None = None


class Worker:
    """Solves batches one after the other, in this process or in an actor of Ray's."""

    def __init__(self, room: Room = Room(), folder: str | None = None) -> None:
        self.room = room
        if folder is not None and os.path.isdir(folder):
            os.chdir(folder)  # relative paths are those of who asked
        if room.threads is not None:
            torch.set_num_threads(room.threads)
        self._held: dict[str, tuple[Any, Any]] = {}
        self._fitting: dict[Any, int] = {}
        self._weights: dict[str, str] = {}

    def ready(self) -> int:
        """Tell that it is there, by its process."""
        return os.getpid()

    def finish(self, batch: Batch) -> Finished:
        """Solve a batch; every job of it comes back as a row, with its pictures or with its error."""
        finished = Finished([], {})
        try:
            sampler, loss = self._load(batch)
            solver = parts.load_solver(batch.config.solver)
            size = self._fits(batch, sampler, loss)
            made = sampler, loss, solver, self._hashes(batch, sampler, loss)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may raise anything, SystemExit too
            finished.rows.extend(failed(batch, batch.jobs, why(error)))
            return finished
        for first in range(0, len(batch.jobs), size):
            self._solve(batch, batch.jobs[first : first + size], made, finished)
        return finished

    def _solve(self, batch: Batch, jobs: Sequence[Job], made: tuple[Any, Any, Any, Row], finished: Finished) -> None:
        sampler, loss, solver, weights = made
        looks = Looks(batch.config.looks)
        try:
            with _counted(sampler):
                solution = solve(
                    sampler,
                    loss,
                    prompt=[job.prompt for job in jobs],
                    seed=[job.seed for job in jobs],
                    solver=solver,
                    callback=looks,
                    memory_limit=self.room.memory,
                    **batch.config.solve,
                )
            if Result.INTERRUPTED in solution.result:
                raise KeyboardInterrupt
            reached = {look: looks.found.get(look, solution) for look in batch.config.iterations}
            rows, pictures = report(batch, jobs, reached, weights)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            told, full = why(error), _ran_out(error)
        else:
            finished.rows.extend(rows)
            finished.pictures.update(pictures)
            return
        if len(jobs) == 1:
            rows, pictures = until(batch, jobs, looks.found, weights, told)
            finished.rows.extend(rows)
            finished.pictures.update(pictures)
            return
        looks.found.clear()
        if full:  # only here, outside the handler, the failed attempt's tensors are gone
            gc.collect()
            torch.cuda.empty_cache()
        half = (len(jobs) + 1) // 2 if full else 1  # as many as there is memory for, or which of them it was
        for first in range(0, len(jobs), half):
            self._solve(batch, jobs[first : first + half], made, finished)

    def _load(self, batch: Batch) -> tuple[Any, Any]:
        config, reference = batch.config, batch.reference
        wanted: dict[str, tuple[Any, Callable[[], Any]]] = {
            "sampler": (config.sampler_key, lambda: parts.load_sampler(config.sampler, self.room.device)),
            "loss": (
                (config.loss_key, reference.path, reference.digest),
                lambda: parts.load_loss(config.loss, reference.path, self.room.device),
            ),
        }
        for kind, (key, make) in wanted.items():
            if kind not in self._held or self._held[kind][0] != key:
                self._held.pop(kind, None)  # before the next one: there may be no memory for both
                self._held[kind] = key, make()
        return self._held["sampler"][1], self._held["loss"][1]

    def _hashes(self, batch: Batch, sampler: Any, loss: Any) -> Row:
        """Return the checksums of the weights of sampler and loss, taken once for each."""
        found: Row = {}
        config = batch.config
        for column, key, made in (
            ("sampler_weights", config.sampler_key, sampler),
            ("weights", config.loss_key, loss),
        ):
            if key not in self._weights:
                self._weights[key] = json.dumps({at: one.weights for at, one in fingerprints(made).items()})
            found[column] = self._weights[key]
        return found

    def _fits(self, batch: Batch, sampler: Any, loss: Any) -> int:
        if self.room.memory is None:
            return len(batch.jobs)
        key = batch.config.sampler_key, batch.config.loss_key, batch.config.solve["gradient_mode"]
        if key not in self._fitting:
            self._fitting[key] = images_that_fit(sampler, loss, batch.config.solve, self.room.memory)
        return min(len(batch.jobs), self._fitting[key])


@contextmanager
def _counted(sampler: Any) -> Iterator[None]:
    """Let the peak of a GPU's memory be that of this solve."""
    if sampler.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(sampler.device)
    yield


def _ran_out(error: BaseException) -> bool:
    """Tell whether an error, or the one that it was made of, says that there is no memory left."""
    return isinstance(error, OutOfMemory) or any(one is not None and ran_out(one) for one in (error, error.__cause__))
