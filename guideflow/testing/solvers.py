"""What every solver must do, on a small flow whose gradients are exact."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from guideflow import _solve
from guideflow.callbacks import Progress
from guideflow.errors import IncompatibleSolver
from guideflow.problem import Problem, draw_noise
from guideflow.sampler import Sampler
from guideflow.solvers import Solver, State
from guideflow.storage.records import flatten
from guideflow.testing._run import Check, Plain, parametrize, require, require_close, run
from guideflow.toy import ToyLinear

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Subject:
    """A fresh solver and a problem it can solve."""

    solver: Solver
    problem: Problem


def check_solver(make: Callable[[], Solver], *, expected_failures: Mapping[str, str] = {}) -> None:
    """Run every check of a solver and report all failures together.

    Arguments:
        make: Makes the solver; called once per check.
        expected_failures: Reason by name of a check that is known to fail.

    Raises:
        ConformanceFailure: Naming each failed check, what it found and what to do.
    """
    run(CHECKS, partial(_prepare, make), expected_failures)


def parametrize_solver(make: Callable[[], Solver], *, expected_failures: Mapping[str, str] = {}) -> Any:
    """Return a pytest mark that gives a test each check of a solver as its argument `check`.

    Arguments are those of [`check_solver`][guideflow.testing.solvers.check_solver].
    """
    return parametrize(CHECKS, partial(_prepare, make), expected_failures)


def _prepare(make: Callable[[], Solver]) -> Subject:
    return Subject(make(), _problem(ToyLinear(dtype=torch.float64), SEEDS))


def squared_distance(image: Tensor) -> Tensor:
    """Half the squared distance to a fixed target, per image."""
    target = torch.linspace(-1, 1, image[0].numel(), dtype=image.dtype).view_as(image[0])
    return (image - target).square().flatten(1).mean(1) / 2


def _problem(sampler: Sampler, seeds: Sequence[int], loss: Callable[[Tensor], Tensor] = squared_distance) -> Problem:
    return Problem(sampler, loss, draw_noise(sampler, seeds), sampler.condition([""] * len(seeds)))


def _states(solver: Solver, problem: Problem, iterations: int) -> Iterator[State]:
    state = solver.init(problem)
    yield state
    for _ in range(iterations):
        state = solver.step(problem, state)
        yield state


_tensors = partial(flatten, name="state")  # of a state, its rollout and its memory, by path


def check_frozen(subject: Subject) -> None:
    """The solver is a frozen dataclass of hyper-parameters.

    Troubleshooting: write `@dataclass(frozen=True)`; what changes from one iteration to the next belongs in the state.
    """
    solver = subject.solver
    require(dataclasses.is_dataclass(solver), f"{type(solver).__name__} is not a dataclass")
    frozen = type(solver).__dataclass_params__.frozen  # type: ignore[attr-defined]
    require(frozen, f"{type(solver).__name__} is a dataclass that is not frozen")


def check_init_is_unguided(subject: Subject) -> None:
    """`init` returns iteration 0 with zero controls and the unguided images, bit for bit.

    Troubleshooting: begin with the first state as drawn, `problem.z0`, and controls of zeros.
    """
    problem, state = subject.problem, subject.solver.init(subject.problem)
    unguided = problem.rollout(problem.z0, torch.zeros_like(state.controls), gradients=False)
    require(state.iteration == 0, f"iteration is {state.iteration}")
    require(torch.equal(state.rollout.images, unguided.images), "the images are not the unguided ones")


def check_counts(subject: Subject) -> None:
    """Each step raises `iteration` by one.

    Troubleshooting: return `replace(state, iteration=state.iteration + 1, ...)`.
    """
    counts = [state.iteration for state in _states(subject.solver, subject.problem, 3)]
    require(counts == [0, 1, 2, 3], f"iterations are numbered {counts}")


def check_rollout_belongs_to_state(subject: Subject) -> None:
    """A state's rollout is that of its own `z0` and `controls`, with gradients.

    Troubleshooting: update first, then roll the new iterate out, and return both in the same state.
    """
    *_, state = _states(subject.solver, subject.problem, 3)
    again = subject.problem.rollout(state.z0, state.controls)
    require_close(state.rollout.images, again.images, "images of the state and of its controls", 1e-9)
    gradients = state.rollout.gradients
    require(gradients is not None and again.gradients is not None, "the rollout has no gradients")


def check_pure(subject: Subject) -> None:
    """`step` does not change the state it is given, and gives the same result again: so a solve can be resumed.

    Troubleshooting: no operation in place on tensors of the state, no attribute kept on the solver, no random numbers.
    """
    *_, state = _states(subject.solver, subject.problem, 2)
    before = {name: tensor.clone() for name, tensor in _tensors(state).items()}
    first, second = (_tensors(subject.solver.step(subject.problem, state)) for _ in range(2))
    for name, tensor in _tensors(state).items():
        require(torch.equal(before[name], tensor), f"step changed {name} of the state it was given")
    for name, tensor in first.items():
        require(torch.equal(tensor, second[name]), f"the same step gave another {name} the second time")


def check_improves(subject: Subject) -> None:
    """Some iterate of the first twenty is better than the unguided image, for every image.

    Troubleshooting: the update must go against the gradient; try a smaller step.
    """
    losses = torch.stack([state.rollout.loss for state in _states(subject.solver, subject.problem, 20)])
    best = losses.nan_to_num(torch.inf).amin(0)
    require(bool((best < losses[0]).all()), f"from {losses[0].tolist()} to at best {best.tolist()}")


def check_batch_independent(subject: Subject) -> None:
    """An image is solved as it would be alone.

    Troubleshooting: take norms, means and maxima per image, over every dimension but the batch.
    """
    *_, together = _states(subject.solver, subject.problem, 5)
    for i, seed in enumerate(SEEDS):
        *_, alone = _states(subject.solver, _problem(subject.problem.sampler, [seed]), 5)
        images = together.rollout.images[i : i + 1]
        require_close(images, alone.rollout.images, f"image {i}, in a batch and alone", 1e-6)


def check_nonfinite_stays_alone(subject: Subject) -> None:
    """A loss of nan in one image leaves the others as they would be.

    Troubleshooting: as for batch-independent; `torch.nan_to_num` is not needed, a sum over the batch is the culprit.
    """

    def spoiled(image: Tensor) -> Tensor:
        value = squared_distance(image)
        return value * torch.tensor([1.0, torch.nan, 1.0], dtype=value.dtype)

    *_, clean = _states(subject.solver, subject.problem, 3)
    *_, state = _states(subject.solver, _problem(subject.problem.sampler, SEEDS, spoiled), 3)
    for i in (0, 2):
        require_close(state.rollout.images[i], clean.rollout.images[i], f"image {i} beside a nan", 1e-9)


def check_scale_zero(subject: Subject) -> None:
    """A solver with a field `scale` returns the unguided image, bit for bit, at scale 0.

    Troubleshooting: multiply the whole update by the scale, and draw nothing anew.
    """
    if "scale" not in getattr(subject.solver, "__dataclass_fields__", {}):
        return
    still: Any = dataclasses.replace(subject.solver, scale=0.0)  # type: ignore[type-var]
    first, *_, last = _states(still, subject.problem, 3)
    require(torch.equal(first.rollout.images, last.rollout.images), "the image changed at scale 0")


def check_plain_sampler(subject: Subject) -> None:
    """The solver runs on a sampler that is no more than `Sampler` asks for, or refuses it.

    Troubleshooting: a solver that reads the schedule or calls `predict` raises `guideflow.errors.IncompatibleSolver`
    in `init` unless `isinstance(problem.sampler, gf.AffineSampler)`.
    """
    try:
        *_, state = _states(subject.solver, _problem(Plain(ToyLinear(dtype=torch.float64)), SEEDS), 2)
    except IncompatibleSolver:
        return
    require(bool(torch.isfinite(state.rollout.images).all()), "the images are not finite on a plain sampler")


def check_resumes(subject: Subject) -> None:
    """A solve that is saved, loaded and resumed ends as one that was not interrupted, bit for bit.

    Troubleshooting: what the solver remembers is the state's `memory`: tensors (B, ...) by name, nested as you like,
    always under the same names; nothing on the solver, no other kind of value.
    """
    sampler, solver = subject.problem.sampler, subject.solver
    options: Any = {"max_iterations": 4}

    def stop(after: int) -> Callable[[Progress], None]:
        seen = itertools.count()

        def interrupt(progress: Progress) -> None:
            if next(seen) == after:
                raise KeyboardInterrupt

        return interrupt

    solve = partial(_solve.solve, sampler, squared_distance, seed=SEEDS, solver=solver, **options)
    whole = solve(callback=stop(4))
    with TemporaryDirectory() as folder:
        solve(callback=stop(2)).save(folder)
        options |= {"sampler": sampler, "loss": squared_distance, "solver": solver, "callback": stop(2)}
        resumed = _solve.resume(folder, **options)
    expected, found = _tensors(whole.state), _tensors(resumed.state)
    require(expected.keys() == found.keys(), f"other tensors after resuming: {sorted(expected.keys() ^ found.keys())}")
    for name, tensor in expected.items():
        require(torch.equal(tensor, found[name]), f"{name} differs after resuming")


CHECKS: tuple[Check, ...] = (
    check_frozen,
    check_init_is_unguided,
    check_counts,
    check_rollout_belongs_to_state,
    check_pure,
    check_improves,
    check_batch_independent,
    check_nonfinite_stays_alone,
    check_scale_zero,
    check_plain_sampler,
    check_resumes,
)
"""The checks of every solver."""
