"""Steps as long as the loss is high, for losses whose optimum is known."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from guideflow._given import in_range
from guideflow.problem import Problem
from guideflow.solvers.base import State, dot, gradients, norm, step_size, times
from guideflow.solvers.control import Move
from guideflow.solvers.wrapper import Wrapper
from guideflow.types import States


@final
@dataclass(frozen=True)
class Polyak(Wrapper):
    """Polyak steps: as far as the loss would need to reach its optimum if it were linear.

        u <- u + min(share (L - optimum) / (-<g, d>), cap / max_k norm(d_k)) d

    with d the move of the wrapped rule, L the objective (the loss with the weights that guide), g its gradient at the
    controls, and cap in steps of scale 1. An image that is at the optimum stays; one that is far goes far.

    Arguments:
        solver: the rule whose direction is taken; its scale does not matter.
        share: of the way to the optimum that a move tries to go, in [0, 2).
        optimum: lowest value that the objective can have.
        cap: longest move of a control, in scales.

    Source: Polyak, Introduction to Optimization (1987), section 5.3.2.
    Not for losses that cannot reach their optimum: their steps stay long, and the image keeps moving.
    """

    name: ClassVar[str] = "polyak"

    share: float = 0.5
    optimum: float = 0.0
    cap: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("share", self.share, 0, 2)
        in_range("cap", self.cap, 0)
        in_range("optimum", self.optimum)

    def change(self, problem: Problem, state: State, d: States) -> Move:
        """Scale the move by the height of the objective over its slope."""
        tiny = torch.finfo(d.dtype).tiny
        slope = -dot(gradients(state), d) / problem.loss_scale
        height = (state.rollout.objective - self.optimum).clamp(min=0)
        length = norm(d).amax(0).flatten() / step_size(1.0, state.z0)
        factor = torch.minimum(self.share * height / slope.clamp(min=tiny), self.cap / length.clamp(min=tiny))
        # Uphill, as an anchored move may point, the linear model promises nothing.
        return Move(times(torch.where(slope > 0, factor, 0), d))
