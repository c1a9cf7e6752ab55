"""Steps that start long and grow short, for any rule that moves controls."""

from dataclasses import dataclass
from typing import ClassVar, Final, final

from guideflow._given import count, in_range
from guideflow.problem import Problem
from guideflow.solvers.base import State
from guideflow.solvers.control import Move
from guideflow.solvers.wrapper import Wrapper
from guideflow.types import States

_ITERATIONS: Final = 20


@final
@dataclass(frozen=True)
class Annealed(Wrapper):
    """Annealed steps: long ones first, to get near; short ones then, to settle.

        u <- u + f_i d,    f_i = start + (end - start) min(i / (iterations - 1), 1),    i = 0, 1, ...

    with d the move of the wrapped rule. Clipped gradients keep their length until the loss is nearly met, so long steps
    alone go back and forth across the optimum, which piles up as noise in the image; steps that grow short settle.

    Arguments:
        solver: the rule whose moves are scaled.
        start: factor of the first move, at least 0.
        end: factor of the last, and of every move after it.
        iterations: number of moves from start to end, at least 1; None for those that are planned, the
            `max_iterations` of `solve` (also after `resume`).

    Source: Robbins and Monro (1951), for the need of steps that shrink.
    """

    name: ClassVar[str] = "annealed"

    start: float = 6.0
    end: float = 0.3
    iterations: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("start", self.start, 0)
        in_range("end", self.end, 0)
        if self.iterations is not None:
            count("iterations", self.iterations)

    def change(self, problem: Problem, state: State, d: States) -> Move:
        """Scale the move by where the solve stands."""
        iterations = self.iterations or problem.horizon or _ITERATIONS
        done = min(state.iteration / max(iterations - 1, 1), 1.0)
        return Move((self.start + (self.end - self.start) * done) * d)
