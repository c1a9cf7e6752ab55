"""Steps as long as the loss is high, for losses whose optimum is known."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from guideflow.problem import Problem
from guideflow.solvers._base import State, gradients, norm, require_range, step_size
from guideflow.solvers.control import Move, Wrapper, dot, times


@final
@dataclass(frozen=True)
class Polyak(Wrapper):
    """Polyak steps: as far as the loss would need to reach its optimum if it were linear.

        u <- u + min(share (L - optimum) / (-<g, d>), cap / max_k norm(d_k)) d

    with d the move of the wrapped rule, g the gradient of the loss at the controls, and cap in steps of scale 1. An
    image that is at the optimum stays; one that is far goes far.

    Arguments:
        solver: the rule whose direction is taken; its scale does not matter.
        share: of the way to the optimum that a move tries to go, in [0, 2).
        optimum: lowest value that the loss can have.
        cap: longest move of a control, in scales.

    Source: Polyak, Introduction to Optimization (1987), section 5.3.2.
    Not for losses that cannot reach their optimum: their steps stay long, and the picture keeps moving.
    """

    name: ClassVar[str] = "polyak"

    share: float = 0.5
    optimum: float = 0.0
    cap: float = 8.0

    def __post_init__(self) -> None:
        """Validate the hyper-parameters."""
        super().__post_init__()
        require_range(self, "share", 0, 2)
        require_range(self, "cap", 0)
        require_range(self, "optimum", -float("inf"))

    def move(self, problem: Problem, state: State) -> Move:
        """Scale the move by the height of the loss over its slope."""
        inner = self.rule.move(problem, state)
        d, tiny = inner.change, torch.finfo(inner.change.dtype).tiny
        slope = -dot(gradients(state), d) / problem.loss_scale
        height = (state.rollout.loss - self.optimum).clamp(min=0)
        length = norm(d).amax(0).flatten() / step_size(1.0, state.z0)
        factor = torch.minimum(self.share * height / slope.clamp(min=tiny), self.cap / length.clamp(min=tiny))
        # Uphill, as an anchored move may point, the linear model promises nothing.
        return self.moved(times(torch.where(slope > 0, factor, 0), d), inner)
