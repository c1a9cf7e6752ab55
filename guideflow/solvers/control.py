"""The control family: rules that move the controls by what one rollout tells, and wrappers that change the moves."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor

from guideflow.errors import InvalidArgument
from guideflow.problem import Problem
from guideflow.registry import load_solver
from guideflow.sampler import Sampler
from guideflow.solvers._base import Solver, State, norm, start
from guideflow.types import Latents, States


@dataclass(frozen=True)
class Move:
    """What a rule wants to do next.

    Arguments:
        change: by how much z_0 and each of u_1..u_K move, (K + 1, B, ...).
        memory: what the rule remembers for its next move, by name, (B, ...) each.
    """

    change: States
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of_controls(cls, change: Latents) -> "Move":
        """Move the controls, (K, B, ...), and leave z_0 where it is."""
        return cls(torch.cat([torch.zeros_like(change[:1]), change]))


class ControlSolver(Solver[State]):
    """A solver that moves the controls, and perhaps the first state, by what one rollout tells.

        u_k <- u_k + d_k,    k = 1..K,    z_0 <- norm(z_init) (z_0 + d_0) / norm(z_0 + d_0)

    with z_init the first state as drawn: noise that is moved stays on its shell. A subclass writes `move`, which
    returns d; an iteration costs one rollout. Such rules can be wrapped: by `Annealed`, `Momentum` and the others of
    `guideflow.solvers`, each of which is a rule of the same kind.
    """

    @abstractmethod
    def move(self, problem: Problem, state: State) -> Move:
        """Return the next move, image by image."""

    def remember(self, problem: Problem, state: State) -> Mapping[str, Tensor]:
        """Return the memory at the unguided state; a rule without memory need not override it."""
        return {}

    @final
    def init(self, problem: Problem) -> State:
        """Return the unguided state."""
        self.check(problem)
        state = start(problem)
        return replace(state, memory=self.remember(problem, state))

    @final
    def step(self, problem: Problem, state: State) -> State:
        """Move, and roll the new controls out."""
        move = self.move(problem, state)
        given, expected = tuple(move.change.shape), tuple(state.rollout.states.shape)
        if given != expected:
            raise InvalidArgument(
                f"{type(self).__name__} moved by {given}. Expected {expected}, z_0 and every control; for controls "
                "alone return `gf.Move.of_controls(change)`."
            )
        controls = state.controls + move.change[1:]
        z0 = state.z0 + move.change[0]
        z0 = z0 * (norm(problem.z0[None])[0] / norm(z0[None])[0].clamp(min=torch.finfo(z0.dtype).tiny))
        rollout = problem.rollout(z0, controls)
        return State(state.iteration + 1, z0, controls, rollout, memory=move.memory)


@dataclass(frozen=True)
class Wrapper(ControlSolver):
    """A rule that changes the moves of another.

    Arguments:
        solver: the rule that is wrapped, or its name, such as "anchored".
    """

    solver: Solver[Any] | str = "flowgrad"

    def __post_init__(self) -> None:
        """Make the solver of a name, and refuse what cannot be wrapped."""
        kind = type(self).__name__
        if isinstance(self.solver, str):
            object.__setattr__(self, "solver", load_solver(self.solver))
        if not isinstance(self.solver, ControlSolver):
            raise InvalidArgument(
                f"{kind} got solver = {self.solver!r}. Expected a rule that moves controls, by name ('anchored', "
                f"'flowgrad') or as an object: `gf.{kind}(gf.FlowGrad(scale=2.0))`."
            )
        inner = self.solver
        while isinstance(inner, Wrapper):
            if type(inner) is type(self):
                raise InvalidArgument(
                    f"{kind} got a {kind} inside. Expected each wrapper once: set its options instead."
                )
            inner = inner.rule

    @property
    def rule(self) -> ControlSolver:
        """The wrapped rule."""
        assert isinstance(self.solver, ControlSolver)
        return self.solver

    @property
    def requires(self) -> type[Sampler]:  # type: ignore[override]
        """Class of samplers that the wrapped rule can work with."""
        return self.rule.requires

    def remember(self, problem: Problem, state: State) -> Mapping[str, Tensor]:
        """Return the memory of the wrapped rule and of the wrapper, at the unguided state."""
        own = {f"{self.name}.{key}": value for key, value in self.first(state).items()}
        return {**self.rule.remember(problem, state), **own}

    def first(self, state: State) -> Mapping[str, Tensor]:
        """Return what the wrapper remembers at the unguided state, (B, ...) each; by default nothing."""
        return {}

    def recall(self, state: State, key: str) -> Tensor:
        """Return what the wrapper has remembered."""
        return state.memory[f"{self.name}.{key}"]

    def moved(self, change: States, inner: Move, **own: Tensor) -> Move:
        """Return the changed move, with what the wrapper remembers beside the memory of the wrapped rule."""
        return Move(change, {**inner.memory, **{f"{self.name}.{key}": value for key, value in own.items()}})


def shifts(problem: Problem, state: State) -> Tensor:
    """Return how far z_0 is from where it was drawn, and u_1..u_K, (K + 1, B, ...)."""
    return torch.cat([(state.z0 - problem.z0)[None], state.controls])


def by_image(values: States) -> Tensor:
    """Turn (K + 1, B, ...) around, to (B, K + 1, ...), as memories are kept; and back."""
    return values.transpose(0, 1)


def dot(a: States, b: States) -> Tensor:
    """Return the inner product over all rows, (B,)."""
    return (a * b).transpose(0, 1).flatten(1).sum(1)


def times(factor: Tensor, values: States) -> Tensor:
    """Multiply what belongs to each image, (K + 1, B, ...), by a number of its own, (B,)."""
    return factor.view(1, -1, *[1] * (values.dim() - 2)) * values


def per_image(value: float, state: State) -> Tensor:
    """Return one number for each image, (B,)."""
    return torch.full_like(state.rollout.loss, value)
