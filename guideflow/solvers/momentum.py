"""Nesterov's momentum, for any rule that moves controls."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from guideflow._given import in_range
from guideflow.problem import Problem
from guideflow.solvers.base import Memory, State, by_image, times
from guideflow.solvers.control import Move
from guideflow.solvers.wrapper import Wrapper
from guideflow.types import States


@final
@dataclass(frozen=True)
class Momentum(Wrapper):
    """Momentum: keep going where the moves agree.

        v <- beta v + d,    u <- u + d + beta v

    with d the move of the wrapped rule: Nesterov's method, whose iterates u are the points it looks ahead to. Where the
    loss of an image rose, its velocity v starts again from 0.

    Arguments:
        solver: the rule whose moves gather speed.
        beta: share of the velocity that is kept, in [0, 1).

    Source: Nesterov (1983), in the form of Sutskever et al. (2013); restart: O'Donoghue and Candes (2015).
    Not for keeping images natural: it goes farther for the same loss than annealed steps do.
    """

    name: ClassVar[str] = "momentum"

    beta: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("beta", self.beta, 0, 1)

    def first(self, problem: Problem, state: State) -> Memory:
        """Remember no velocity, and the loss of the unguided image."""
        return {"velocity": by_image(torch.zeros_like(state.rollout.states)), "loss": state.rollout.loss}

    def change(self, problem: Problem, state: State, d: States) -> Move:
        """Add the velocity to the move."""
        loss = state.rollout.loss
        beta = torch.where(loss <= state.memory["loss"], self.beta, 0.0).to(loss.dtype)
        v = times(beta, by_image(state.memory["velocity"])) + d
        return Move(d + self.beta * v, {"velocity": by_image(v), "loss": loss})
