"""Steps that start long and grow short, for any rule that moves controls."""

from dataclasses import dataclass
from typing import ClassVar, final

from guideflow.problem import Problem
from guideflow.solvers._base import State, require_count, require_range
from guideflow.solvers.control import Move, Wrapper


@final
@dataclass(frozen=True)
class Annealed(Wrapper):
    """Annealed steps: long ones first, to get near; short ones then, to settle.

        u <- u + f_i d,    f_i = start + (end - start) min(i / (iterations - 1), 1),    i = 0, 1, ...

    with d the move of the wrapped rule. Clipped gradients keep their length until the loss is nearly met, so long steps
    alone go back and forth across the optimum, which piles up as noise in the picture; steps that grow short settle.

    Arguments:
        solver: the rule whose moves are scaled.
        start: factor of the first move, at least 0.
        end: factor of the last, and of every move after it.
        iterations: number of moves from start to end, at least 1.

    Source: Robbins and Monro (1951), for the need of steps that shrink.
    """

    name: ClassVar[str] = "annealed"

    start: float = 6.0
    end: float = 0.3
    iterations: int = 20

    def __post_init__(self) -> None:
        """Validate the hyper-parameters."""
        super().__post_init__()
        for name in ("start", "end"):
            require_range(self, name, 0)
        require_count(self, "iterations")

    def move(self, problem: Problem, state: State) -> Move:
        """Scale the move by where the solve stands."""
        inner = self.rule.move(problem, state)
        done = min(state.iteration / max(self.iterations - 1, 1), 1.0)
        return self.moved((self.start + (self.end - self.start) * done) * inner.change, inner)
