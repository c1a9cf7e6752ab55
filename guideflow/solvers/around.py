"""Rules around any solver, whatever it is that it moves."""

from dataclasses import dataclass

from guideflow.errors import InvalidArgument
from guideflow.solvers.base import Solver
from guideflow.solvers.flowgrad import FlowGrad


@dataclass(frozen=True)
class Around(Solver):
    """A rule around any solver, which asks `solve` for what that one asks for.

    Arguments:
        solver: any.
    """

    solver: Solver = FlowGrad()  # noqa: RUF009  (it is frozen)

    def __post_init__(self) -> None:
        if not isinstance(self.solver, Solver):
            name = type(self).__name__
            why = f"{name} got solver={self.solver!r}. Expected a solver"
            raise InvalidArgument(f"{why}: `gf.solvers.{name}(gf.Auto())`.").as_typed(
                f"{why}, as in {self.name}:solver=auto."
            )

    @property
    def default_iterations(self) -> int:
        """Those of the solver."""
        return self.solver.default_iterations

    @property
    def candidates(self) -> int:  # type: ignore[override]
        """Those of the solver."""
        return self.solver.candidates

    @property
    def candidate_radius(self) -> float:  # type: ignore[override]
        """That of the solver."""
        return self.solver.candidate_radius

    @property
    def candidate_previews(self) -> bool:  # type: ignore[override]
        """As the solver."""
        return self.solver.candidate_previews
