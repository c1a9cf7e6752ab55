"""The loop of `solve`: step, stop each image in time, keep the best."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from guideflow._batched import select
from guideflow.callbacks import Callbacks, Progress
from guideflow.errors import NonFinite
from guideflow.losses.base import Loss
from guideflow.problem import Noise, Problem
from guideflow.solution import Kept, Result, Settings, Solution
from guideflow.solvers import Solver, State


class Clock:
    """Time since now, and whether it is over a limit in seconds."""

    def __init__(self, limit: float | None) -> None:
        """Start."""
        self.limit, self.start = limit, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.perf_counter() - self.start

    @property
    def over(self) -> bool:
        """Whether the limit is reached."""
        return self.limit is not None and self.seconds >= self.limit


@dataclass
class Run:
    """The changing part of a solve."""

    problem: Problem
    solver: Solver[Any]
    settings: Settings
    recipes: dict[str, Any]
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    rows: list[dict[str, Tensor]] = field(default_factory=list)
    seconds: float = 0.0
    state: Any = None
    best: Any = None
    unguided: Any = None
    result: list[Result | None] = field(default_factory=list)

    def finish(self, clock: Clock, callbacks: Callbacks, throw: bool) -> Solution:
        """Iterate to the end and return the solution."""
        outcome = Result.MAX_ITERATIONS
        try:
            if self.state is None:
                self._begin()
            callbacks.start(self.problem, self.settings.max_iterations)
            callbacks(self._progress(clock))
            while self.state.iteration < self.settings.max_iterations and None in self.result:
                if clock.over:
                    outcome = Result.TIME_LIMIT
                    break
                self._iterate()
                callbacks(self._progress(clock))
        except KeyboardInterrupt:
            if self.state is None:
                raise
            outcome = Result.INTERRUPTED
        finally:
            callbacks.close()
        solution = self._solution(clock, [result or outcome for result in self.result])
        if throw and any(result.failed for result in solution.result):
            failed = {i: result for i, result in enumerate(solution.result) if result.failed}
            raise NonFinite("; ".join(f"Image {i}: {result.value}" for i, result in failed.items()), solution)
        return solution

    def _begin(self) -> None:
        state = self.solver.init(self.problem.at(0))
        row = _measure(state)
        self.result = [None] * len(self.settings.seeds)
        self.best, self.unguided = _kept(state), state.rollout.images
        self.rows, self.state = [row], state
        for i, good in enumerate(_finite(row).tolist()):
            self.result[i] = None if good else Result.NONFINITE_START
        self._review()

    def _iterate(self) -> None:
        new = self.solver.step(self.problem.at(self.state.iteration + 1), self.state)
        state, row = new, _measure(new)
        accepted = _finite(row)
        good: list[bool] = accepted.tolist()  # the one wait for the device in an iteration
        goes_on = [fine and result is None for fine, result in zip(good, self.result, strict=True)]
        if not all(goes_on):
            # What has stopped, and what just became nan, keeps its old row, in the solver's state too.
            accepted = torch.tensor(goes_on, device=accepted.device)
            state = select(accepted, new, self.state)
            row = _measure(state)
        better = accepted & (new.rollout.loss < self.best.loss)
        best = select(better, _kept(new), self.best)
        self.state, self.best, self.rows = state, best, [*self.rows, row]
        for i, fine in enumerate(good):
            if self.result[i] is None and not fine:
                self.result[i] = Result.NONFINITE
        self._review()

    def _review(self) -> None:
        """Stop the images that are good enough or make no progress."""
        target, patience = self.settings.target_loss, self.settings.patience
        if target is None and patience is None:
            return
        losses, best = self.state.rollout.loss.tolist(), self.best.iteration.tolist()
        # Before that a term may not have guided yet, so that its loss had no reason to improve.
        settled = self.problem.loss.settled if isinstance(self.problem.loss, Loss) else 0
        for i, result in enumerate(self.result):
            if result is not None:
                continue
            if target is not None and losses[i] <= target:
                self.result[i] = Result.TARGET_REACHED
            elif patience is not None and self.state.iteration - max(best[i], settled) >= patience:
                self.result[i] = Result.NO_IMPROVEMENT

    def _progress(self, clock: Clock) -> Progress:
        return Progress(
            iteration=self.state.iteration,
            max_iterations=self.settings.max_iterations,
            state=self.state,
            problem=self.problem,
            best_loss=self.best.loss,
            active=tuple(result is None for result in self.result),
            seconds=self.seconds + clock.seconds,
        )

    def _solution(self, clock: Clock, result: Sequence[Result]) -> Solution:
        loss, noise = self.problem.loss, self.problem.noise
        return Solution(
            kept=self.best if self.settings.keep == "best" else _kept(self.state),
            best=self.best,
            unguided=self.unguided,
            history={name: torch.stack([row[name] for row in self.rows]).cpu() for name in self.rows[0]},
            result=tuple(result),
            stats={
                "iterations": self.state.iteration,
                "network_evaluations": self.problem.evaluations.count,
                "rebuilt_evaluations": self.problem.evaluations.rebuilt,
                "gradient_mode": self.problem.plan.chosen or self.problem.gradient_mode,
                "seconds": self.seconds + clock.seconds,
                "peak_memory": _peak_memory(self.problem.sampler.device),
            },
            settings=self.settings,
            state=self.state,
            noise=_noise_tensors(noise),
            references=tuple(loss.references()) if isinstance(loss, Loss) else (),
            recipes=self.recipes,
            run=self.run,
            problem=self.problem,
            solver=self.solver,
        )


def _noise_tensors(noise: Noise) -> dict[str, Tensor]:
    steps = {f"steps.{k}": step for k, step in enumerate(noise.steps) if step is not None}
    return {"initial": noise.initial, **steps}


def _kept(state: State) -> Kept:
    rollout = state.rollout
    iteration = torch.full_like(rollout.loss, state.iteration, dtype=torch.int64)
    return Kept(iteration, state.z0, state.controls, rollout.states[-1], rollout.images, rollout.loss)


def _measure(state: State) -> dict[str, Tensor]:
    """Return one row of the history."""
    rollout = state.rollout
    gradients = rollout.states.new_zeros(rollout.states.shape) if rollout.gradients is None else rollout.gradients
    norms = {"gradient_norm": _norm(gradients), "control_norm": _norm(state.controls)}
    return {"loss": rollout.loss, **rollout.terms, **norms}


def _norm(values: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values.transpose(0, 1).flatten(1), dim=1)
    return norm


def _finite(row: dict[str, Tensor]) -> Tensor:
    return torch.isfinite(row["loss"]) & torch.isfinite(row["gradient_norm"]) & torch.isfinite(row["control_norm"])


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
        import sys
    except ImportError:  # not on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
