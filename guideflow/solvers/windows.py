"""Moves for some windows only: which part of the trajectory is steered."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from guideflow._given import in_range
from guideflow.problem import Problem
from guideflow.solvers.base import State, per_window
from guideflow.solvers.control import Move
from guideflow.solvers.wrapper import Wrapper
from guideflow.types import States


@final
@dataclass(frozen=True)
class Windows(Wrapper):
    """Steer some windows only: those that end at a noise level above one bound and not above another.

        u_k <- u_k + d_k if above < l_k <= upto, else u_k,    l_k the noise level at the end of window k

    with d the move of the wrapped rule; what it does to z_0 stays. Levels are shares of the time at which sampling
    starts, 1 there and 0 at the finished latent, so a bound means the same for every family and number of steps. The
    control after the last window, l_K = 0, edits the finished latent itself: like an adversarial attack, it finds
    pictures that please the loss and nobody else. By default it is left alone.

    Arguments:
        solver: the rule whose moves are masked. For a sampler of one step, whose only window is the last, it should
            move the noise: `gf.FlowGrad(noise=1.0)`.
        above: windows that end at this level or below are not steered, in [0, 1).
        upto: windows that end above this level are not steered, in [0, 1].

    Source: the page "Clean pictures"; guidance of flow maps likewise stops before the last steps.
    """

    name: ClassVar[str] = "windows"

    above: float = 0.0
    upto: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("above", self.above, 0, 1)
        in_range("upto", self.upto, 0)

    def change(self, problem: Problem, state: State, d: States) -> Move:
        """Leave out the moves of the other windows."""
        steered = per_window([self.above < level <= self.upto for level in problem.sampler.end_levels], d[1:])
        return Move(torch.cat([d[:1], steered * d[1:]]))
