"""The driver loop: iterate a solver, stop each image in time, keep the best."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Literal, TypeVar

import torch

from guideflow._recipes import recipes
from guideflow._run import Clock, Run
from guideflow._storage import from_disk
from guideflow.callbacks import Callback, Callbacks
from guideflow.errors import CannotResume, InvalidArgument
from guideflow.problem import Problem, draw_noise
from guideflow.registry import load_solver
from guideflow.sampler import Sampler
from guideflow.solution import Settings, Solution
from guideflow.solvers import Solver, State
from guideflow.types import LossLike

S = TypeVar("S", bound=State)


def iterate(problem: Problem, solver: Solver[S], state: S | None = None) -> Iterator[S]:
    """Yield the states of a solver without end, first the given one or else the unguided one.

    `break` to stop; pass the last state to go on later. Nothing is kept, stopped or checked: that is `solve`'s work.
    """
    solver.check(problem)
    state = solver.init(problem.at(0)) if state is None else state
    while True:
        yield state
        state = solver.step(problem.at(state.iteration + 1), state)


def solve(
    sampler: Sampler,
    loss: LossLike,
    *,
    prompt: str | Sequence[str] = "",
    negative_prompt: str | Sequence[str] | None = None,
    seed: int | Sequence[int] = 0,
    solver: str | Solver[Any] = "auto",
    max_iterations: int = 20,
    callback: Callback | Sequence[Callback] | None = None,
    keep: Literal["best", "last"] = "best",
    target_loss: float | None = None,
    patience: int | None = None,
    time_limit: float | None = None,
    loss_scale: float = 100.0,
    gradient_mode: str = "full",
    memory_limit: float | None = None,
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
        solver: a name or an object; "anchored" is the paper's own rule, which asks for more iterations.
        max_iterations: number of updates; 0 gives the unguided images.
        callback: called with a `Progress` after every iteration, iteration 0 included; one or several.
        keep: the iterate to keep of each image, that of lowest loss or the last.
        target_loss: stop an image as soon as its loss is this low.
        patience: stop an image if its loss has not improved for so many iterations, all of them after the weights of a
            scheduled loss have settled.
        time_limit: stop after so many seconds, between iterations.
        loss_scale: factor of the loss before gradients are taken, see `Problem`.
        gradient_mode: how gradients are taken, which changes memory and time and not the numbers (beyond
            rounding): "full" (one graph, fastest), "windowed" (the memory of one step, one more forward evaluation of
            all steps but the last), "checkpointed" (also inside the networks, evaluated twice) or "auto" (the fastest
            that fits; the next one if memory runs out nevertheless). `stats["gradient_mode"]` tells which it was.
        memory_limit: bytes that gradients may keep, for gradient_mode="auto"; None for 80% of what the device has left.
        throw: raise `NonFinite` if an image met nan or inf, instead of reporting it in `result` only.

    Raises:
        InvalidArgument: for lists of different lengths and values out of range.
        InvalidLoss: if the loss does not return one differentiable number per image.
        IncompatibleSolver: if the solver needs a capability the sampler does not have.
        OutOfMemory: if the memory does not suffice for the gradients as asked.
    """
    if not isinstance(sampler, Sampler):
        raise InvalidArgument(f"Got {sampler!r} as sampler. Expected an object: `gf.load_sampler('toy-mixture')`.")
    prompts, negatives, seeds = _broadcast(prompt, negative_prompt, seed)
    settings = Settings(
        prompts, negatives, seeds, max_iterations, keep, target_loss, patience, loss_scale, gradient_mode, memory_limit
    )
    _check(settings, time_limit)
    solver = load_solver(solver) if isinstance(solver, str) else solver
    with torch.no_grad():
        condition = sampler.condition(prompts, negatives)
    problem = Problem(sampler, loss, draw_noise(sampler, seeds), condition, loss_scale, gradient_mode, memory_limit)
    solver.check(problem)
    run = Run(problem, solver, settings, recipes(sampler, loss, solver))
    return run.finish(Clock(time_limit), Callbacks(callback), throw)


def resume(
    solution: Solution | str | PathLike[str],
    *,
    max_iterations: int,
    callback: Callback | Sequence[Callback] | None = None,
    time_limit: float | None = None,
    sampler: Sampler | None = None,
    loss: LossLike | None = None,
    solver: Solver[Any] | None = None,
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
    run = Run(solution.problem, solution.solver, settings, dict(solution.recipes), solution.run)
    run.state, run.best, run.unguided = solution.state, solution.best, solution.unguided
    run.result = [None if result.can_go_on else result for result in solution.result]
    run.rows = [
        {name: column[i].to(run.state.z0.device) for name, column in solution.history.items()}
        for i in range(run.state.iteration + 1)
    ]
    run.seconds = solution.stats["seconds"]
    solution.problem.evaluations.count = int(solution.stats["network_evaluations"])
    solution.problem.evaluations.rebuilt = int(solution.stats.get("rebuilt_evaluations", 0))
    return run.finish(Clock(time_limit), Callbacks(callback), throw)


def _broadcast(
    prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None, seed: int | Sequence[int]
) -> tuple[tuple[str, ...], tuple[str, ...] | None, tuple[int, ...]]:
    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    negatives = (negative_prompt,) if isinstance(negative_prompt, str) else tuple(negative_prompt or ())
    seeds = (seed,) if isinstance(seed, int) else tuple(seed)
    lists: dict[str, Sequence[object]] = {"prompt": prompts, "seed": seeds}
    if negative_prompt is not None:
        lists["negative_prompt"] = negatives
    batch = max(map(len, lists.values()))
    if batch == 0 or any(len(values) not in (1, batch) for values in lists.values()):
        counts = ", ".join(f"{len(values)} for `{name}`" for name, values in lists.items())
        raise InvalidArgument(f"Got lists of different lengths: {counts}. Give each one value, or one per image.")
    for name, values, kind in (("prompt", prompts, str), ("negative_prompt", negatives, str), ("seed", seeds, int)):
        for value in values:
            if not isinstance(value, kind) or isinstance(value, bool):
                raise InvalidArgument(f"Got {value!r} in `{name}`. Expected {kind.__name__} values only.")
    full_negatives = None if negative_prompt is None else negatives * (batch // len(negatives))
    return prompts * (batch // len(prompts)), full_negatives, seeds * (batch // len(seeds))


def _check(settings: Settings, time_limit: float | None) -> None:
    if settings.keep not in ("best", "last"):
        raise InvalidArgument(f"Got keep = {settings.keep!r}. Expected 'best' or 'last'.")
    if not isinstance(settings.max_iterations, int) or settings.max_iterations < 0:
        raise InvalidArgument(f"Got max_iterations = {settings.max_iterations!r}. Expected an integer of at least 0.")
    if settings.patience is not None and settings.patience < 1:
        raise InvalidArgument(f"Got patience = {settings.patience!r}. Expected at least 1, or None.")
    if time_limit is not None and not time_limit > 0:
        raise InvalidArgument(f"Got time_limit = {time_limit!r}. Expected seconds above 0, or None.")
