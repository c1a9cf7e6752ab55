"""The driver loop: iterate a solver, stop each image in time, keep the best."""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from guideflow._batched import select
from guideflow._storage import from_disk, recipes
from guideflow.callbacks import Callback, Callbacks, Progress
from guideflow.errors import CannotResume, InvalidArgument, NonFinite
from guideflow.loss import AbstractLoss
from guideflow.problem import Noise, Problem, draw_noise
from guideflow.registry import load_solver
from guideflow.sampler import Sampler
from guideflow.solution import Kept, Result, Settings, Solution
from guideflow.solvers import AbstractSolver, State
from guideflow.types import Loss

S = TypeVar("S", bound=State)


def iterate(problem: Problem, solver: AbstractSolver[S], state: S | None = None) -> Iterator[S]:
    """Yield the states of a solver without end, first the given one or else the unguided one.

    `break` to stop; pass the last state to go on later. Nothing is kept, stopped or checked: that is `solve`'s work.
    """
    solver.check(problem)
    state = solver.init(problem) if state is None else state
    while True:
        yield state
        state = solver.step(problem, state)


def solve(
    sampler: Sampler,
    loss: Loss,
    *,
    prompt: str | Sequence[str] = "",
    negative_prompt: str | Sequence[str] | None = None,
    seed: int | Sequence[int] = 0,
    solver: str | AbstractSolver[Any] = "anchored",
    max_iterations: int = 50,
    callback: Callback | Sequence[Callback] | None = None,
    keep: Literal["best", "last"] = "best",
    target_loss: float | None = None,
    patience: int | None = None,
    time_limit: float | None = None,
    loss_scale: float = 100.0,
    throw: bool = False,
) -> Solution:
    """Guide a sampler with a loss.

    Image i depends only on prompt i and seed i. An image stops by itself; the others go on. Ctrl-C (or a callback that
    raises `KeyboardInterrupt`) ends the solve and returns what was reached.

    Arguments:
        sampler: from `load_sampler`, or any `Sampler`.
        loss: from `load_loss`, or any callable from an image batch to one number per image.
        prompt: one, or one per image.
        negative_prompt: one, or one per image; what the image should not show, for samplers that know it.
        seed: one, or one per image. Prompts and seeds are broadcast against each other.
        solver: a name or an object.
        max_iterations: number of updates; 0 gives the unguided images.
        callback: called with a `Progress` after every iteration, iteration 0 included; one or several.
        keep: the iterate to keep of each image, that of lowest loss or the last.
        target_loss: stop an image as soon as its loss is this low.
        patience: stop an image if its loss has not improved for so many iterations.
        time_limit: stop after so many seconds, between iterations.
        loss_scale: factor of the loss before gradients are taken, see `Problem`.
        throw: raise `NonFinite` if an image met nan or inf, instead of reporting it in `result` only.

    Raises:
        InvalidArgument: for lists of different lengths and values out of range.
        InvalidLoss: if the loss does not return one differentiable number per image.
        IncompatibleSolver: if the solver needs a capability the sampler does not have.
    """
    if not isinstance(sampler, Sampler):
        raise InvalidArgument(f"Got {sampler!r} as sampler. Expected an object: `gf.load_sampler('toy-mixture')`.")
    prompts, negatives, seeds = _broadcast(prompt, negative_prompt, seed)
    settings = Settings(prompts, negatives, seeds, max_iterations, keep, target_loss, patience, loss_scale)
    _check(settings, time_limit)
    solver = load_solver(solver) if isinstance(solver, str) else solver
    with torch.no_grad():
        condition = sampler.condition(prompts, negatives)
    problem = Problem(sampler, loss, draw_noise(sampler, seeds), condition, loss_scale)
    solver.check(problem)
    run = _Run(problem, solver, settings, recipes(sampler, loss, solver))
    return run.finish(_Clock(time_limit), Callbacks(callback), throw)


def resume(
    solution: Solution | str | PathLike[str],
    *,
    max_iterations: int,
    callback: Callback | Sequence[Callback] | None = None,
    time_limit: float | None = None,
    sampler: Sampler | None = None,
    loss: Loss | None = None,
    solver: AbstractSolver[Any] | None = None,
    throw: bool = False,
) -> Solution:
    """Go on with a solution, exactly as if it had been solved in one piece.

    Images that had reached the target, run out of patience or met nan stay as they are.

    Arguments:
        solution: a solution or the folder it was saved to.
        max_iterations: total number of iterations, those already done included.
        callback: as in `solve`.
        time_limit: as in `solve`, for this call.
        sampler: needed if the sampler was not made by `load_sampler`; likewise `loss` and `solver`.
        loss: see `sampler`.
        solver: see `sampler`.
        throw: as in `solve`.

    Raises:
        CannotResume: if a part is missing or does not fit, or more iterations than `max_iterations` are done.
    """
    if not isinstance(solution, Solution) or solution.problem is None or sampler or loss or solver:
        solution = from_disk(solution, sampler, loss, solver)
    assert solution.problem is not None and solution.solver is not None
    if max_iterations < solution.state.iteration:
        raise CannotResume(
            f"Got max_iterations = {max_iterations}, but {solution.state.iteration} iterations are done already. "
            "`max_iterations` is the total; give a larger one."
        )
    settings = replace(solution.settings, max_iterations=max_iterations)
    _check(settings, time_limit)
    run = _Run(solution.problem, solution.solver, settings, dict(solution.recipes), solution.run)
    run.state, run.best, run.unguided = solution.state, solution.best, solution.unguided
    run.result = [None if result.can_go_on else result for result in solution.result]
    run.rows = [
        {name: column[i].to(run.state.z0.device) for name, column in solution.history.items()}
        for i in range(run.state.iteration + 1)
    ]
    run.seconds = solution.stats["seconds"]
    solution.problem.evaluations.count = int(solution.stats["network_evaluations"])
    return run.finish(_Clock(time_limit), Callbacks(callback), throw)


class _Clock:
    def __init__(self, limit: float | None) -> None:
        self.limit, self.start = limit, time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    @property
    def over(self) -> bool:
        return self.limit is not None and self.seconds >= self.limit


@dataclass
class _Run:
    """The changing part of a solve."""

    problem: Problem
    solver: AbstractSolver[Any]
    settings: Settings
    recipes: dict[str, Any]
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    rows: list[dict[str, Tensor]] = field(default_factory=list)
    seconds: float = 0.0
    state: Any = None
    best: Any = None
    unguided: Any = None
    result: list[Result | None] = field(default_factory=list)

    def finish(self, clock: _Clock, callbacks: Callbacks, throw: bool) -> Solution:
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
        state = self.solver.init(self.problem)
        row = _measure(state)
        self.result = [None] * len(self.settings.seeds)
        self.best, self.unguided = _kept(state), state.rollout.images
        self.rows, self.state = [row], state
        for i, good in enumerate(_finite(row).tolist()):
            self.result[i] = None if good else Result.NONFINITE_START
        self._review()

    def _iterate(self) -> None:
        new = self.solver.step(self.problem, self.state)
        good = _finite(_measure(new))
        active = torch.tensor([result is None for result in self.result], device=good.device)
        accepted = good & active
        # What has stopped, and what just became nan, keeps its old row, in the solver's state too.
        state = new if bool(accepted.all()) else select(accepted, new, self.state)
        better = accepted & (new.rollout.loss < self.best.loss)
        best = select(better, _kept(new), self.best)
        row = _measure(state)
        self.state, self.best, self.rows = state, best, [*self.rows, row]
        for i, bad in enumerate((active & ~good).tolist()):
            if bad:
                self.result[i] = Result.NONFINITE
        self._review()

    def _review(self) -> None:
        """Stop the images that are good enough or make no progress."""
        target, patience = self.settings.target_loss, self.settings.patience
        losses, best = self.state.rollout.loss.tolist(), self.best.iteration.tolist()
        for i, result in enumerate(self.result):
            if result is not None:
                continue
            if target is not None and losses[i] <= target:
                self.result[i] = Result.TARGET_REACHED
            elif patience is not None and self.state.iteration - best[i] >= patience:
                self.result[i] = Result.NO_IMPROVEMENT

    def _progress(self, clock: _Clock) -> Progress:
        return Progress(
            iteration=self.state.iteration,
            max_iterations=self.settings.max_iterations,
            state=self.state,
            problem=self.problem,
            best_loss=self.best.loss,
            active=tuple(result is None for result in self.result),
            seconds=self.seconds + clock.seconds,
        )

    def _solution(self, clock: _Clock, result: Sequence[Result]) -> Solution:
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
                "seconds": self.seconds + clock.seconds,
                "peak_memory": _peak_memory(self.problem.sampler.device),
            },
            settings=self.settings,
            state=self.state,
            noise=_noise_tensors(noise),
            references=tuple(loss.references()) if isinstance(loss, AbstractLoss) else (),
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
    return torch.linalg.vector_norm(values.transpose(0, 1).flatten(1), dim=1)


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


def _broadcast(
    prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None, seed: int | Sequence[int]
) -> tuple[tuple[str, ...], tuple[str, ...] | None, tuple[int, ...]]:
    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    negatives = (negative_prompt,) if isinstance(negative_prompt, str) else tuple(negative_prompt or ())
    seeds = (seed,) if isinstance(seed, int) else tuple(seed)
    lists = {"prompt": prompts, "seed": seeds}
    if negative_prompt is not None:
        lists["negative_prompt"] = negatives
    batch = max(map(len, lists.values()))
    if any(len(values) not in (1, batch) for values in lists.values()):
        counts = ", ".join(f"{len(values)} for `{name}`" for name, values in lists.items())
        raise InvalidArgument(f"Got lists of different lengths: {counts}. Give each one value, or one per image.")
    for name, values, kind in (("prompt", prompts, str), ("negative_prompt", negatives, str), ("seed", seeds, int)):
        if wrong := [value for value in values if not isinstance(value, kind) or isinstance(value, bool)]:
            raise InvalidArgument(f"Got {wrong[0]!r} in `{name}`. Expected {kind.__name__} values only.")
    full = {name: values * (batch // len(values)) for name, values in lists.items()}
    return full["prompt"], full.get("negative_prompt"), full["seed"]


def _check(settings: Settings, time_limit: float | None) -> None:
    if settings.keep not in ("best", "last"):
        raise InvalidArgument(f"Got keep = {settings.keep!r}. Expected 'best' or 'last'.")
    if not isinstance(settings.max_iterations, int) or settings.max_iterations < 0:
        raise InvalidArgument(f"Got max_iterations = {settings.max_iterations!r}. Expected an integer of at least 0.")
    if settings.patience is not None and settings.patience < 1:
        raise InvalidArgument(f"Got patience = {settings.patience!r}. Expected at least 1, or None.")
    if time_limit is not None and not time_limit > 0:
        raise InvalidArgument(f"Got time_limit = {time_limit!r}. Expected seconds above 0, or None.")
