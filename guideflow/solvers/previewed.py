"""Moves that look at previews, for any solver."""

from dataclasses import dataclass, replace
from typing import ClassVar, final

from guideflow._given import count
from guideflow.previewing import Previewing, judged
from guideflow.problem import Problem
from guideflow.solvers.around import Around
from guideflow.solvers.base import Memory, State


@final
@dataclass(frozen=True)
class Previewed(Around):
    """Let a solver look at previews, and only after several of its iterations at the picture itself.

        s <- S(s)    `moves` times, on loss(preview(z_K));    then x = decode(z_K), judged by loss(x)

    Where the decoder is most of the work, an iteration on previews costs a fraction of one in full. Nothing that is
    kept, reported or compared comes from a preview; it only guides, and chooses where to start. So a loss has to know
    what it looks at in a picture of less detail too: faces, layouts and colours yes, fine texture no.

    An iteration costs those of the solver with the small decoder, and a picture and loss in full without gradients.
    Where a sampler has no small decoder it is the same as so many iterations of the solver.

    Arguments:
        solver: any.
        moves: iterations of the solver to each of this, at least 1.

    Source: of our own; the page "Fewer iterations" measures it. The small decoder is that of `Sampler.preview`.
    """

    name: ClassVar[str] = "previewed"

    moves: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        count("moves", self.moves)

    @property
    def default_iterations(self) -> int:
        """As many as make those of the solver."""
        return -(-self.solver.default_iterations // self.moves)

    @property
    def candidate_previews(self) -> bool:  # type: ignore[override]
        """Always."""
        return True

    def init(self, problem: Problem) -> State:
        """Return the solver's first state, with its picture in full."""
        state = self.solver.init(self._seen(problem))
        return replace(state, rollout=judged(problem, state.rollout))

    def remember(self, problem: Problem, state: State) -> Memory:
        """Remember what the solver does."""
        return self.solver.remember(self._seen(problem), state)

    def step(self, problem: Problem, state: State) -> State:
        """Let the solver go on by itself for so many iterations, and look."""
        seen, evaluations, rebuilt = self._seen(problem), 0, 0
        found = replace(state, iteration=self.moves * state.iteration)
        for _ in range(self.moves):
            found = self.solver.step(seen, found)
            evaluations, rebuilt = evaluations + found.rollout.evaluations, rebuilt + found.rollout.rebuilt
        rollout = replace(judged(problem, found.rollout), evaluations=evaluations, rebuilt=rebuilt)
        return replace(found, iteration=state.iteration + 1, rollout=rollout)

    def _seen(self, problem: Problem) -> Previewing:
        horizon = None if problem.horizon is None else self.moves * problem.horizon
        return replace(Previewing.of(problem), horizon=horizon)
