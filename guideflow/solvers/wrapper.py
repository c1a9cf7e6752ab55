"""Rules that change the moves of another rule."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import final

from guideflow.errors import InvalidArgument
from guideflow.problem import Problem
from guideflow.solvers.base import Memory, State
from guideflow.solvers.control import ControlSolver, Move
from guideflow.solvers.flowgrad import FlowGrad
from guideflow.types import States


@dataclass(frozen=True)
class Wrapper(ControlSolver):
    """A rule that changes the moves of another.

    A subclass writes `change`, and `first` if it remembers something. Both see a state whose memory is the wrapper's
    own; that of the wrapped rule lies beside it, so wrappers nest as they like, the same one twice included.

    Arguments:
        solver: the rule that is wrapped.
    """

    solver: ControlSolver = FlowGrad()  # noqa: RUF009  (it is frozen)

    def __post_init__(self) -> None:
        if not isinstance(self.solver, ControlSolver):
            name = type(self).__name__
            why = f"{name} got solver={self.solver!r}. Expected a solver that moves controls"
            typed = f"{why}, as in {self.name}:solver=flowgrad."
            raise InvalidArgument(f"{why}: `gf.{name}(gf.FlowGrad())`.").as_typed(typed)

    @abstractmethod
    def change(self, problem: Problem, state: State, d: States) -> Move:
        """Return what becomes of the move d of the wrapped rule."""

    def first(self, problem: Problem, state: State) -> Memory:
        """Return the wrapper's own memory at the unguided state, (B, ...) each; by default there is none."""
        return {}

    @final
    def remember(self, problem: Problem, state: State) -> Memory:
        """Return the wrapper's memory and that of the wrapped rule."""
        return {"own": self.first(problem, state), "inner": self.solver.remember(problem, state)}

    @final
    def move(self, problem: Problem, state: State) -> Move:
        """Change the move of the wrapped rule."""
        inner = self.solver.move(problem, replace(state, memory=state.memory["inner"]))
        outer = self.change(problem, replace(state, memory=state.memory["own"]), inner.change)
        return Move(outer.change, {"own": outer.memory, "inner": inner.memory})
