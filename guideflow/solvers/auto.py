"""The default solver: the combination that did best where everything was measured."""

from dataclasses import dataclass
from typing import ClassVar, Final, final

from guideflow._given import count, in_range, one_of
from guideflow.errors import InvalidArgument
from guideflow.problem import Problem
from guideflow.solvers.annealed import Annealed
from guideflow.solvers.base import Memory, Solver, State
from guideflow.solvers.control import ControlSolver, Move
from guideflow.solvers.flowgrad import FlowGrad
from guideflow.solvers.polished import Polished
from guideflow.solvers.previewed import Previewed
from guideflow.solvers.universal import Universal
from guideflow.solvers.windows import Windows

_MOVES: Final = 4  # previews are looked at in to each picture


@final
@dataclass(frozen=True)
class Auto(ControlSolver):
    """The default: from the best of 16 noises, FlowGrad with steps that grow short, the finished latent left alone.

        u_k <- (1 - 0.02 f_i) u_k - f_i s N(g_k),    f_i from 5 down to 0.25,    k = 1..K-1,    u_K = 0

    with N(g) = g / max(norm(g), 0.03 norm(g at the start)), so no unit of the loss changes anything. What long steps
    pile up in the controls without need is forgotten while they are long; the short ones at the end settle. With a
    sampler of one step z_0 moves instead, three times as far. The page "Fewer iterations" measures it against anchored
    guidance with eight times as many iterations. `parts` returns the same in parts, to be varied.

    With `passes` it is universal guidance instead, each window gone through twice, with steps of 8 s. A pass costs four
    times an iteration and three are enough; they leave no trace in the denoising error, and never settle, as every one
    draws new noise. That is for losses that know what they look at even in the blurred picture of the first windows:
    presets ask for it where it was measured.

    With `preview` losses look at previews, where the sampler has a small decoder for them, also where starts are
    chosen; each iteration ends with the picture in full. In the time of twelve iterations there are five of four moves
    each then, and in that of three passes six, each of which forgets 0.3 of what those before have found.

    With `polish`, what is found passes through the last window once more, unguided: see `guideflow.solvers.Polished`.

    Arguments:
        scale: guidance scale, at least 0. 0 leaves the image as it is.
        iterations: in how many the steps grow short; afterwards they stay so. None for those that are planned, the
            `max_iterations` of `solve` (also after `resume`). With `preview` it counts moves. Passes are all alike.
        passes: whether to pass through the windows; for an `AffineSampler`, of velocities or of predicted noise.
        preview: whether losses look at previews on the way.
        polish: share of the finished latent that is the network's own, in [0, 1]; for such a sampler, and nothing where
            it has one step.
        noises: of how many to start from the best, where `solve` is not told of `candidates`.
    """

    name: ClassVar[str] = "auto"
    scale: float = 1.0
    iterations: int | None = None
    passes: bool = False
    preview: bool = False
    polish: float = 0.0
    noises: int = 16

    def __post_init__(self) -> None:
        in_range("polish", self.polish, 0, 1, ends="[]")
        one_of("passes", self.passes, (True, False))
        one_of("preview", self.preview, (True, False))
        count("noises", self.noises)
        self.parts(num_steps=1)  # they check what they are given

    @property
    def candidates(self) -> int:  # type: ignore[override]
        """As many noises."""
        return self.noises

    @property
    def candidate_previews(self) -> bool:  # type: ignore[override]
        """With previews."""
        return self.preview

    def parts(self, num_steps: int) -> Solver:
        """Return what is done for a sampler of so many steps."""
        if self.passes:
            rule: Solver = Universal(8.0 * self.scale, repeats=2, clip=0.03, decay=0.3 * self.preview)
        else:
            steps = FlowGrad(self.scale, decay=0.02, noise=3.0 if num_steps == 1 else 0.0, clip=0.03)
            rule = Annealed(Windows(steps), start=5.0, end=0.25, iterations=self.iterations)
        if self.preview:
            rule = Previewed(rule, moves=1 if self.passes else _MOVES)
        return Polished(rule, self.polish) if self.polish and num_steps > 1 else rule

    @property
    def default_iterations(self) -> int:
        """Three passes or six that preview; else as many as `iterations`, or twelve, or five that preview."""
        if self.passes:
            return 6 if self.preview else 3
        moves = self.iterations or (20 if self.preview else super().default_iterations)
        return -(-moves // _MOVES) if self.preview else moves

    def init(self, problem: Problem) -> State:
        """Begin as the parts do."""
        return self.parts(problem.num_steps).init(problem)

    def step(self, problem: Problem, state: State) -> State:
        """Go on as the parts do."""
        return self.parts(problem.num_steps).step(problem, state)

    def remember(self, problem: Problem, state: State) -> Memory:
        """Remember as the parts do."""
        return self.parts(problem.num_steps).remember(problem, state)

    def move(self, problem: Problem, state: State) -> Move:
        """Move as the parts do.

        Raises:
            InvalidArgument: if it does more than moves: passes, previews, or polish.
        """
        rule = self.parts(problem.num_steps)
        if not isinstance(rule, Annealed):
            raise InvalidArgument(
                f"Got {self} inside another solver. It wraps moves only: leave passes, preview and polish out."
            )
        return rule.move(problem, state)
