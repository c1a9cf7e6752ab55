"""Gradient descent on the controls themselves."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from guideflow._require import in_range
from guideflow.problem import Problem
from guideflow.solvers.base import State, gradients, shifts, step_size
from guideflow.solvers.base import unit_clip as N
from guideflow.solvers.control import ControlSolver, Move


@final
@dataclass(frozen=True)
class FlowGrad(ControlSolver):
    """FlowGrad: descend on additive controls, each with its own gradient.

        u_k <- (1 - decay) u_k - s N(g_k),    k = 1..K,   z_0 fixed                            (noise = 0)
        z_0 <- z_0 - noise (s N(g_0) + decay (z_0 - z_init)),   back on the shell of z_init    (noise > 0)

    with g_k = dL/dz_k = dL/du_k, N(g) = g / max(norm(g), 1) and s = scale sqrt(d) / 128. The decay pulls the controls
    to zero and the image to the unguided one; it is the running cost of OC-Flow.

    One rollout per iteration: K network evaluations and their input gradients.

    Arguments:
        scale: step size, at least 0. 0 leaves the image as it is.
        decay: share of each control that is forgotten per iteration, in [0, 1).
        noise: step of the first state relative to that of the controls, at least 0. Of use to samplers of one step,
            whose only control edits the finished latent.

    Source: Liu et al., FlowGrad: Controlling the Output of Generative ODEs with Gradients (CVPR 2023), without its
    non-uniform discretisation; Wang et al., OC-Flow (2025), for the decay.
    Not for keeping images natural: the last control edits the finished latent directly, like an adversarial attack.
    """

    name: ClassVar[str] = "flowgrad"

    scale: float = 1.0
    decay: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        in_range("scale", self.scale, 0)
        in_range("decay", self.decay, 0, 1)
        in_range("noise", self.noise, 0)

    def move(self, problem: Problem, state: State) -> Move:
        """Move every control, and perhaps z_0, against its own gradient."""
        d = -step_size(self.scale, state.z0) * N(gradients(state)) - self.decay * shifts(problem, state)
        return Move(torch.cat([self.noise * d[:1], d[1:]]) if self.noise else Move.of_controls(d[1:]).change)
