"""Solve batches on Ray: actors that keep their sampler warm, each with its share of cores and GPUs."""

import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Final

from guideflow._require import require
from guideflow.errors import GuideflowError, InvalidArgument
from guideflow.sweep.jobs import Batch
from guideflow.sweep.rows import failed
from guideflow.sweep.spec import Workers
from guideflow.sweep.worker import Finished, Room, Worker

LOCAL: Final = "local"
_DEATHS: Final = 3
"""How many workers a batch may take with it: first it is split, to find which job it is, and then that one fails."""
_STARTS: Final = 5
"""Workers in a row that end before they were ready: something is wrong that trying again will not mend."""


class WorkersFail(GuideflowError, RuntimeError):
    """Workers of Ray's end before they are ready."""


@dataclass(frozen=True)
class _Task:
    batch: Batch
    deaths: int = 0


@dataclass(frozen=True)
class RayEngine:
    """Solves batches on a Ray cluster.

    A worker that is killed is replaced, and its batch solved again. Results come back to this process, which alone
    writes, so that machines need not share a folder; references and weights they read themselves.

    Arguments:
        address: of a cluster, or "local" for one on this machine that ends with the sweep.
        workers: what each takes.
    """

    address: str
    workers: Workers

    def __call__(self, batches: Iterator[Batch], room: Room) -> Iterator[Finished]:
        """Solve batches; they come back as they are finished."""
        with _connected(self.address, self.workers) as ray:
            pool = _Pool(ray, self.workers, room, _number(ray, self.workers))
            try:
                yield from pool.run(batches)
            finally:
                pool.close()


class _Pool:
    """Actors and what each is at; at most one batch each, so that memory stays flat however many there are."""

    def __init__(self, ray: Any, workers: Workers, room: Room, number: int) -> None:
        room = replace(room, threads=max(1, int(workers.cpus)))
        self._ray, self._number, self._unready = ray, number, 0
        self._make = ray.remote(Worker).options(num_cpus=workers.cpus, num_gpus=workers.gpus, max_restarts=0)
        self._room = room
        self._at: dict[Any, tuple[Any, _Task | None]] = {}  # what is awaited -> the actor, and its task if it has one
        self._again: list[_Task] = []

    def run(self, batches: Iterator[Batch]) -> Iterator[Finished]:
        for _ in range(self._number):
            self._start()
        while True:
            done, _ = self._ray.wait(list(self._at), num_returns=1, timeout=1.0)
            for reference in done:
                actor, task = self._at.pop(reference)
                finished = self._result(reference, task)
                if finished is None:
                    with suppress(Exception):
                        self._ray.kill(actor)
                    self._start()
                    yield from self._bury(task)
                    continue
                self._unready = 0
                if (following := self._next(batches)) is not None:
                    self._at[actor.finish.remote(following.batch)] = actor, following
                else:
                    self._ray.kill(actor)
                if isinstance(finished, Finished):
                    yield finished
            if not self._at or (not self._again and all(task is None for _, task in self._at.values())):
                if (following := self._next(batches)) is None:
                    return
                self._again.append(following)
                if not self._at:
                    self._start()

    def _next(self, batches: Iterator[Batch]) -> _Task | None:
        if self._again:
            return self._again.pop()
        batch = next(batches, None)
        return None if batch is None else _Task(batch)

    def _start(self) -> None:
        actor = self._make.remote(self._room, os.getcwd())
        self._at[actor.ready.remote()] = actor, None

    def _result(self, reference: Any, task: _Task | None) -> Any:
        """Return what an actor made, or None if it died."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except (errors.RayActorError, errors.WorkerCrashedError, errors.ObjectLostError, errors.OutOfMemoryError):
            self._unready += task is None
            if self._unready >= _STARTS:
                raise WorkersFail(
                    f"{_STARTS} workers ended before they were ready. See Ray's logs in /tmp/ray/session_latest/logs; "
                    "a worker needs guideflow installed, and room for what `workers` in the spec asks for."
                ) from None
            return None

    def _bury(self, task: _Task | None) -> Iterator[Finished]:
        """Give the batch of a worker that died to another; in the end what kills workers fails."""
        if task is None:
            return
        if task.deaths + 1 < _DEATHS:
            self._again.append(replace(task, deaths=task.deaths + 1))
        elif len(task.batch.jobs) > 1:
            self._again += [_Task(replace(task.batch, jobs=(job,))) for job in task.batch.jobs]
        else:
            error = f"The worker was killed {_DEATHS} times at this job: out of memory, or a crash of a library."
            yield Finished(failed(task.batch, task.batch.jobs, error), {})

    def close(self) -> None:
        for actor, _ in self._at.values():
            with suppress(Exception):
                self._ray.kill(actor)


def _number(ray: Any, workers: Workers) -> int:
    """Return how many workers there are, or fit."""
    there = ray.cluster_resources()
    fit = [int(there.get("CPU", 0) / workers.cpus)]
    fit += [int(there.get("GPU", 0) / workers.gpus)] if workers.gpus else []
    if min(fit) < 1 or (workers.count or 1) > min(fit):
        wanted = f"{workers.count or 1} of {workers.cpus:g} cores and {workers.gpus:g} GPUs each"
        raise InvalidArgument(
            f"The cluster has {there.get('CPU', 0):g} cores and {there.get('GPU', 0):g} GPUs, too little for `workers` "
            f"as the spec asks for: {wanted}. Lower count, cpus or gpus."
        )
    return workers.count or min(fit)


@contextmanager
def _connected(address: str, workers: Workers) -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = require("ray", extra="sweep")
    before = signal.getsignal(signal.SIGTERM)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "include_dashboard": None}
    if address == LOCAL:
        options |= {"address": "local", "include_dashboard": False}
        if workers.count is not None:
            options["num_cpus"] = max(1, ceil(workers.count * workers.cpus))
    else:
        options["address"] = address
    if ray.is_initialized():
        raise InvalidArgument("Ray is connected in this process already. Type `ray.shutdown()` before the sweep.")
    try:
        _knock(address)
        ray.init(**{name: value for name, value in options.items() if value is not None})
    except (OSError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        raise InvalidArgument(
            f"No Ray cluster answers at {address!r} ({why}). Give the address that `ray start --head` shows, or "
            "--ray by itself for this machine alone."
        ) from error
    try:
        _handle(before)  # Ray's own would end the process without a word
        yield ray
    finally:
        ray.shutdown()
        _handle(before)


def _knock(address: str) -> None:
    """Raise `OSError` if nothing answers at host:port or ray://host:port, for which Ray would wait for minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/\]]+?)\]?:(\d+)", address)
    if found:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()


def _handle(handler: Any) -> None:
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, handler)
