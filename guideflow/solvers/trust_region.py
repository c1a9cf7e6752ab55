"""Steps as long as the loss keeps its promise, for any rule that moves controls."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from guideflow._given import in_range
from guideflow.errors import InvalidArgument
from guideflow.problem import Problem
from guideflow.solvers.base import Memory, State, dot, gradients, times
from guideflow.solvers.control import Move
from guideflow.solvers.wrapper import Wrapper
from guideflow.types import States


@final
@dataclass(frozen=True)
class TrustRegion(Wrapper):
    """Trust-region steps: lengthen them while the loss falls as its gradient says, shorten them where it does not.

        r   = (L_before - L) / (-<g, change>)    what the last move gained, of what was promised
        f  <- f / 2 if r < 1/4,   1.5 f if r > 3/4,   within [smallest, largest]
        u  <- u + f d

    with d the move of the wrapped rule, f a factor of each image's own and L the objective, which is the loss with the
    weights that guide. Nothing is taken back: a move that failed costs a rollout in any case, and the next one starts
    from what it found.

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
        super().__post_init__()
        for name in ("start", "smallest", "largest"):
            in_range(name, getattr(self, name), 0)
        if not 0 < self.smallest <= self.start <= self.largest:
            raise InvalidArgument(
                f"Got smallest={self.smallest}, start={self.start}, largest={self.largest}. Expected "
                "0 < smallest <= start <= largest."
            )

    def first(self, problem: Problem, state: State) -> Memory:
        """Remember the first factor, and that no move has promised anything yet."""
        objective = state.rollout.objective
        f, promise = torch.full_like(objective, self.start), torch.zeros_like(objective)
        return {"factor": f, "promise": promise, "objective": objective}

    def change(self, problem: Problem, state: State, d: States) -> Move:
        """Adjust the factor to what the last move gained, and scale the next by it."""
        f, promise, objective = state.memory["factor"], state.memory["promise"], state.rollout.objective
        gain = state.memory["objective"] - objective
        moved = promise > 0
        f = torch.where(moved & (gain < promise / 4), f / 2, torch.where(moved & (gain > 0.75 * promise), 1.5 * f, f))
        f = f.clamp(self.smallest, self.largest)
        change = times(f, d)
        promise = -dot(gradients(state), change) / problem.loss_scale
        return Move(change, {"factor": f, "promise": promise, "objective": objective})
