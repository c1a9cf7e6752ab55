"""The loop: step, stop each image in time, keep the best."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from guideflow._solve.advance import Advance
from guideflow._solve.candidates import choose_start
from guideflow._solve.history import measure
from guideflow._solve.recover import is_good, shorten
from guideflow.callbacks import Callback, Progress
from guideflow.errors import GuideflowError
from guideflow.losses.base import as_sum
from guideflow.memory import peak_bytes
from guideflow.previewing import judged
from guideflow.problem import Problem
from guideflow.settings import Result, Settings
from guideflow.solution import Kept, Solution
from guideflow.solvers import Solver, State
from guideflow.started import Started
from guideflow.types import where


def begin(problem: Problem, solver: Solver, settings: Settings, configs: Mapping[str, Any]) -> "Run":
    """Choose where to start, and roll the unguided images out.

    Interrupted on the way, or by what the loss raises, it is a run of no iterations from the best start so far, without
    gradients, if there is one.
    """
    began = time.perf_counter()
    start = choose_start(
        problem, settings.seeds, settings.candidates, settings.candidate_radius, solver.candidate_previews
    )
    advance, state, error = Advance(start.problem, solver), None, start.error
    if error is None:
        try:
            state = advance(None)
        except BaseException as raised:
            if start.rollout is None or isinstance(raised, GuideflowError):  # which nothing reached would mend
                raise
            error = raised
    if state is None:
        assert start.rollout is not None
        z0 = start.problem.z0
        rollout = judged(start.problem, start.rollout) if solver.candidate_previews else start.rollout
        state = State(0, z0, z0.new_zeros(problem.num_steps, *z0.shape), rollout)
    row, rollout = measure(state), state.rollout
    solution = Solution(
        best=Kept.of(state),
        unguided=rollout.images if start.plain is None else start.plain,
        start=rollout.images,
        chosen=start.chosen,
        history={name: value[None] for name, value in row.items()},
        result=tuple(
            Result.MAX_ITERATIONS if good else Result.NONFINITE_START for good in is_good(row, state).tolist()
        ),
        stats={
            "network_evaluations": start.evaluations + rollout.evaluations,
            "rebuilt_evaluations": rollout.rebuilt,
            "seconds": time.perf_counter() - began,
        },
        settings=settings,
        state=state,
        noise=start.problem.noise,
        references=(),
        configs=configs,
        edit=problem.sampler.edit if isinstance(problem.sampler, Started) else None,
    )
    return Run(advance, solution, error)


class Run:
    """The changing part of a solve that goes on where a solution ended."""

    def __init__(self, advance: Advance, saved: Solution, error: BaseException | None = None) -> None:
        self.advance, self.saved, self.settings, self.error = advance, saved, saved.settings, error
        self.state, self.best = saved.state, saved.best
        columns, count = saved.history.items(), len(saved.history["loss"])
        self.rows = [{name: column[i] for name, column in columns} for i in range(count)]
        self.result = [None if result.can_go_on else result for result in saved.result]
        self.evaluations = int(saved.stats["network_evaluations"])
        self.rebuilt = int(saved.stats["rebuilt_evaluations"])
        self.shorter = int(saved.stats.get("shorter_steps", 0))
        self.began = time.perf_counter() - saved.stats["seconds"]  # had it gone in one piece

    def finish(self, tell: Callback, keep: Callable[["Run"], None], deadline: float) -> Solution:
        """Iterate to the end, or to a point of `time.perf_counter`, and return the solution.

        Arguments:
            tell: called with what there is after every iteration, as is `keep` before.
            keep: see `tell`.
            deadline: the point.
        """
        if self.error is not None:  # what was reached before it is a run by now, and kept
            raise self.error
        outcome = Result.MAX_ITERATIONS
        self._review()
        keep(self)
        tell(self._progress())
        while self.state.iteration < self.settings.max_iterations and None in self.result:
            if time.perf_counter() >= deadline:
                outcome = Result.TIME_LIMIT
                break
            self._iterate()
            self._review()
            if None in self.result and self.state.iteration < self.settings.max_iterations:
                keep(self)  # the last one is kept by who called
            tell(self._progress())
        return self.solution(outcome)

    def _iterate(self) -> None:
        state = self.advance(self.state)
        evaluations, rebuilt, row, shorter = state.rollout.evaluations, state.rollout.rebuilt, measure(state), 0
        accepted = is_good(row, state)
        good: list[bool] = accepted.tolist()  # the one wait for the device in an iteration
        lost = [not fine and result is None for fine, result in zip(good, self.result, strict=True)]
        if any(lost):
            mask = torch.tensor(lost, device=accepted.device)
            state, found, tries = shorten(self.advance, self.state, state, mask)
            evaluations, shorter = evaluations + tries * self.advance.problem.num_steps, int(found.sum())
            row, accepted = measure(state), accepted | found
            good = accepted.tolist()
        goes_on = [fine and result is None for fine, result in zip(good, self.result, strict=True)]
        if not all(goes_on):
            # What has stopped, and what just became nan, keeps its old row, in the solver's memory too.
            accepted = torch.tensor(goes_on, device=accepted.device)
            state = where(accepted, state, self.state)
            row = measure(state)
        best = where(accepted & (state.rollout.loss < self.best.loss), Kept.of(state), self.best)
        self.result = [
            result if fine or result is not None else Result.NONFINITE
            for fine, result in zip(good, self.result, strict=True)
        ]
        # Last, and together: an interrupt before this line leaves the iterate before.
        self.state, self.best, self.rows = state, best, [*self.rows, row]
        self.evaluations, self.rebuilt = self.evaluations + evaluations, self.rebuilt + rebuilt
        self.shorter += shorter

    def _review(self) -> None:
        """Stop the images that are good enough or make no progress."""
        target, patience = self.settings.target_loss, self.settings.patience
        if target is None and patience is None:
            return
        losses, best = self.state.rollout.loss.tolist(), self.best.iteration.tolist()
        # Before that a term may not have guided yet, so that its loss had no reason to improve.
        settled = as_sum(self.advance.problem.loss).settled
        for i, result in enumerate(self.result):
            if result is None and target is not None and losses[i] <= target:
                self.result[i] = Result.TARGET_REACHED
            elif result is None and patience is not None and self.state.iteration - max(best[i], settled) >= patience:
                self.result[i] = Result.NO_IMPROVEMENT

    def _progress(self) -> Progress:
        return Progress(
            iteration=self.state.iteration,
            max_iterations=self.settings.max_iterations,
            state=self.state,
            problem=self.advance.problem,
            best_loss=self.best.loss,
            active=tuple(result is None for result in self.result),
            seconds=time.perf_counter() - self.began,
            solution=partial(self.solution, Result.MAX_ITERATIONS),
        )

    def solution(self, outcome: Result) -> Solution:
        """Return what was reached, and why those images that nothing had stopped were finished."""
        problem, result = self.advance.problem, tuple(one or outcome for one in self.result)
        return replace(
            self.saved,
            best=self.best,
            history={name: torch.stack([row[name] for row in self.rows]).cpu() for name in self.rows[0]},
            result=result,
            stats={
                "iterations": self.state.iteration,
                "network_evaluations": self.evaluations,
                "rebuilt_evaluations": self.rebuilt + self.advance.rebuilt,
                "shorter_steps": self.shorter,
                "gradient_mode": problem.gradient_mode,
                "seconds": time.perf_counter() - self.began,
                "peak_memory": peak_bytes(problem.sampler.device),
            },
            state=self.state,
            references=tuple(as_sum(problem.loss).references()),
            problem=replace(problem, gradient_mode=self.settings.gradient_mode),
            solver=self.advance.solver,
        )
