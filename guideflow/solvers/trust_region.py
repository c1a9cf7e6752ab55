"""Steps as long as the loss keeps its promise, for any rule that moves controls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from guideflow.errors import InvalidArgument
from guideflow.problem import Problem
from guideflow.solvers._base import State, gradients, require_range
from guideflow.solvers.control import Move, Wrapper, dot, per_image, times


@final
@dataclass(frozen=True)
class TrustRegion(Wrapper):
    """Trust-region steps: lengthen them while the loss falls as its gradient says, shorten them where it does not.

        r   = (L_before - L) / (-<g, change>)            what the last move gained, of what its gradient promised
        f  <- f / 2 if r < 1/4,   1.5 f if r > 3/4,   within [smallest, largest]
        u  <- u + f d

    with d the move of the wrapped rule and f a factor of each image's own. Nothing is taken back: a move that failed
    costs a rollout in any case, and the next one starts from what it found.

    Arguments:
        solver: the rule whose moves are scaled.
        start: first factor, within [smallest, largest].
        smallest: above 0.
        largest: at least smallest.

    Source: Conn, Gould and Toint, Trust-Region Methods (2000), with their constants.
    """

    name: ClassVar[str] = "trust-region"

    start: float = 4.0
    smallest: float = 0.1
    largest: float = 8.0

    def __post_init__(self) -> None:
        """Validate the hyper-parameters."""
        super().__post_init__()
        for name in ("start", "smallest", "largest"):
            require_range(self, name, 0)
        if not 0 < self.smallest <= self.start <= self.largest:
            raise InvalidArgument(
                f"TrustRegion got smallest = {self.smallest}, start = {self.start}, largest = {self.largest}. Expected "
                "0 < smallest <= start <= largest."
            )

    def first(self, state: State) -> Mapping[str, Tensor]:
        """Return the first factor, and a loss of which nothing was promised."""
        return {"factor": per_image(self.start, state), "promise": per_image(0, state), "loss": state.rollout.loss}

    def move(self, problem: Problem, state: State) -> Move:
        """Adjust the factor to what the last move gained, and scale the next by it."""
        inner = self.rule.move(problem, state)
        loss, promise, f = state.rollout.loss, self.recall(state, "promise"), self.recall(state, "factor")
        gain = self.recall(state, "loss") - loss
        asked = promise > 0  # nothing is at the first move
        f = torch.where(asked & (gain < promise / 4), f / 2, torch.where(asked & (gain > 0.75 * promise), 1.5 * f, f))
        f = f.clamp(self.smallest, self.largest)
        change = times(f, inner.change)
        promise = -dot(gradients(state), change) / problem.loss_scale
        return self.moved(change, inner, factor=f, promise=promise, loss=loss)
