"""One step of a solve: the solver at work, within the memory there is."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from guideflow._process import own_state
from guideflow.errors import InvalidArgument, OutOfMemory
from guideflow.gradients import MODES, choose, go_on_with_less
from guideflow.losses.base import as_sum
from guideflow.problem import Problem, Rollout
from guideflow.solvers import Solver, State
from guideflow.types import Latent, Latents, intact, map_tensors

T = TypeVar("T")


class Advance:
    """A solver on a problem, in the gradient mode asked for: "auto" is the fastest that fits, the next where it fails.

    `rebuilt` counts the steps of the sampler that choosing the mode took.
    """

    def __init__(self, problem: Problem, solver: Solver) -> None:
        self.problem, self.solver, self.rebuilt = problem, solver, 0
        self.adapts = problem.gradient_mode == "auto"

    @own_state()
    def __call__(self, state: State | None) -> State:
        """Return the next state, or the unguided one after None."""
        iteration = 0 if state is None else state.iteration + 1
        if self.problem.gradient_mode == "auto":
            now = self.problem.at(iteration)
            self._take(choose(now, now.z0, lambda k, end_point: torch.zeros_like(end_point), now.memory_limit))
            self.rebuilt += now.num_steps

        def step(now: Problem) -> State:
            given = None if state is None else map_tensors(lambda tensor, axis: tensor.clone(), state)
            with intact(given, f"The solver {type(self.solver).__name__}", InvalidArgument):
                found = self.solver.init(now) if given is None else self.solver.step(now, given)
            if fault := next((what for what, fits in _parts(found, now, iteration, state) if not fits()), None):
                raise InvalidArgument(
                    f"The solver {type(self.solver).__name__} returned a state whose {fault}. Expected a "
                    "`guideflow.solvers.State` with the rollout of its z0 and controls."
                )
            _check_memory(found.memory, len(found.z0))
            return found

        return self._within_memory(iteration, step)

    def rollout(self, iteration: int, z0: Latent, controls: Latents) -> Rollout:
        """Return the rollout of an iteration with controls that are none of the solver's choice."""
        return self._within_memory(iteration, lambda now: now.rollout(z0, controls))

    def _within_memory(self, iteration: int, call: Callable[[Problem], T]) -> T:
        while True:
            now = self.problem.at(iteration)
            try:
                return call(now)
            except OutOfMemory:
                following = MODES[MODES.index(now.gradient_mode) + 1 :]
                if not self.adapts or not following:
                    raise
            go_on_with_less(now.gradient_mode, following[0])  # outside the handler, where the attempt's graph is gone
            self._take(following[0])

    def _take(self, mode: str) -> None:
        self.problem = replace(self.problem, gradient_mode=mode)


def _parts(
    found: Any, problem: Problem, iteration: int, before: State | None
) -> Iterator[tuple[str, Callable[[], bool]]]:
    """List what is to be seen of a state before anything goes on with it, each once what is before it fits."""
    shape, dtype, steps = problem.z0.shape, problem.z0.dtype, problem.num_steps

    def are(tensors: Sequence[Any], *sizes: int) -> bool:
        return all(isinstance(one, Tensor) and one.shape == sizes for one in tensors)

    yield f"class is {type(found).__name__}", lambda: isinstance(found, State)
    at = found.iteration
    yield f"iteration is {at!r} and not {iteration}", lambda: type(at) is int and at == iteration
    yield f"z0 is not {tuple(shape)} of {dtype}", lambda: are([found.z0], *shape) and found.z0.dtype == dtype
    yield f"controls are not {(steps, *shape)}", lambda: are([found.controls], steps, *shape)
    rollout = found.rollout
    yield f"rollout is a {type(rollout).__name__}", lambda: isinstance(rollout, Rollout)
    yield "rollout has other states", lambda: are([rollout.states], steps + 1, *shape)
    yield "rollout has other end points", lambda: are([rollout.end_points], steps, *shape)
    gradients = [] if rollout.gradients is None else [rollout.gradients]
    yield "rollout has other gradients", lambda: are(gradients, steps + 1, *shape)
    counted = (rollout.evaluations, rollout.rebuilt)
    yield f"rollout counts {counted} evaluations", lambda: all(type(one) is int and one >= 0 for one in counted)
    known, terms = as_sum(problem.loss).weights(), rollout.terms
    yield f"rollout has a {type(terms).__name__} of terms", lambda: isinstance(terms, Mapping)
    wanted = list(known if before is None else before.rollout.terms)
    yield (
        f"rollout has the terms {', '.join(map(str, terms))} where the loss has {', '.join(wanted)}",
        lambda: set(terms) == set(wanted) if before else set(terms) >= set(wanted),
    )
    yield (
        f"rollout has not {len(problem.z0)} losses",
        lambda: are([rollout.loss, rollout.objective, *rollout.terms.values()], len(problem.z0)),
    )
    images = rollout.images
    yield "rollout has other images", lambda: isinstance(images, Tensor) and images.shape[:1] == shape[:1]
    yield f"memory is a {type(found.memory).__name__}", lambda: isinstance(found.memory, Mapping)


def _check_memory(memory: Mapping[str, Any], batch: int) -> None:
    """Refuse at once what could not be saved in the end."""
    for name, value in memory.items():
        if not isinstance(name, str):
            raise InvalidArgument(f"The solver remembers something as {name!r}. Expected a text.")
        if isinstance(value, Mapping):
            _check_memory(value, batch)
        elif not isinstance(value, Tensor) or value.shape[:1] != (batch,):
            given = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise InvalidArgument(
                f"The solver remembers {given} as {name!r}. Expected tensors ({batch}, ...), image by image."
            )
