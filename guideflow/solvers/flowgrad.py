"""Gradient descent on the controls themselves."""

from dataclasses import dataclass
from typing import ClassVar, final

from guideflow.problem import Problem
from guideflow.solvers._base import AbstractSolver, State, advance, gradients, require_range, start, step_size
from guideflow.solvers._base import unit_clip as N


@final
@dataclass(frozen=True)
class FlowGrad(AbstractSolver[State]):
    """FlowGrad: descend on additive controls, each with its own gradient.

        u_k <- (1 - decay) u_k - s N(g_k),    k = 1..K,   z_0 fixed

    with g_k = dL/dz_k = dL/du_k, N(g) = g / max(norm(g), 1) and s = scale sqrt(d) / 128. The decay pulls the controls
    to zero and the picture to the unguided one; it is the running cost of OC-Flow.

    One rollout per iteration: K network evaluations and their input gradients.

    Arguments:
        scale: step size, at least 0. 0 leaves the image as it is.
        decay: share of each control that is forgotten per iteration, in [0, 1).

    Source: Liu et al., FlowGrad: Controlling the Output of Generative ODEs with Gradients (CVPR 2023), without its
    non-uniform discretisation; Wang et al., OC-Flow (2025), for the decay.
    Not for keeping pictures natural: the last control edits the finished latent directly, like an adversarial attack.
    """

    name: ClassVar[str] = "flowgrad"

    scale: float = 1.0
    decay: float = 0.0

    def __post_init__(self) -> None:
        """Validate the hyper-parameters."""
        require_range(self, "scale", 0)
        require_range(self, "decay", 0, 1)

    def init(self, problem: Problem) -> State:
        """Return the unguided state."""
        return start(problem)

    def step(self, problem: Problem, state: State) -> State:
        """Move every control against its own gradient."""
        s = step_size(self.scale, state.z0)
        g = gradients(state)[1:]
        u = (1 - self.decay) * state.controls - s * N(g)
        return advance(problem, state, u)
