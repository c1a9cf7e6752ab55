"""The control family: rules that move the controls by what one rollout tells."""

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import final

import torch

from guideflow.errors import InvalidArgument
from guideflow.problem import Problem
from guideflow.solvers.base import Memory, Solver, State, norm, unguided
from guideflow.types import Latents, States, shown


@final
@dataclass(frozen=True)
class Move:
    """What a rule wants to do next.

    Arguments:
        change: by how much z_0 and each of u_1..u_K move, (K + 1, B, ...).
        memory: what the rule remembers for its next move: tensors (B, ...) by name.
    """

    change: States
    memory: Memory = field(default_factory=dict)

    __repr__ = shown

    @classmethod
    def of_controls(cls, change: Latents, memory: Memory | None = None) -> "Move":
        """Move the controls, (K, B, ...), and leave z_0 where it is."""
        return cls(torch.cat([torch.zeros_like(change[:1]), change]), memory or {})


class ControlSolver(Solver):
    """A solver that moves the controls, and perhaps the first state, by what one rollout tells.

        u_k <- u_k + d_k,    k = 1..K,    z_0 <- norm(z_init) (z_0 + d_0) / norm(z_0 + d_0)

    with z_init the first state as drawn: noise that is moved stays on its shell. A subclass writes `move`, which
    returns d, and `remember` if its moves depend on earlier ones; an iteration costs one rollout. Such rules can be
    wrapped: by `Annealed`, `Momentum` and the others of `guideflow.solvers`, each of which is a rule of the same kind.
    """

    @abstractmethod
    def move(self, problem: Problem, state: State) -> Move:
        """Return the next move, image by image."""

    def init(self, problem: Problem) -> State:
        """Return the unguided state."""
        state = unguided(problem)
        return replace(state, memory=self.remember(problem, state))

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
        return State(state.iteration + 1, z0, controls, problem.rollout(z0, controls), move.memory)
