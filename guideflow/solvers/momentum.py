"""Nesterov's momentum, for any rule that moves controls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from guideflow.problem import Problem
from guideflow.solvers._base import State, require_range
from guideflow.solvers.control import Move, Wrapper, by_image, times


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
    Not for keeping pictures natural: it goes farther for the same loss than annealed steps do.
    """

    name: ClassVar[str] = "momentum"

    beta: float = 0.9

    def __post_init__(self) -> None:
        """Validate the hyper-parameters."""
        super().__post_init__()
        require_range(self, "beta", 0, 1)

    def first(self, state: State) -> Mapping[str, Tensor]:
        """Return no velocity, and a loss that any other is below."""
        return {"velocity": by_image(torch.zeros_like(state.rollout.states)), "loss": state.rollout.loss}

    def move(self, problem: Problem, state: State) -> Move:
        """Add the velocity to the move."""
        inner = self.rule.move(problem, state)
        d, loss = inner.change, state.rollout.loss
        kept = torch.where(loss <= self.recall(state, "loss"), self.beta, 0.0).to(loss.dtype)
        v = times(kept, by_image(self.recall(state, "velocity"))) + d
        return self.moved(d + self.beta * v, inner, velocity=by_image(v), loss=loss)
