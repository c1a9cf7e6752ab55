"""Gradient descent on the controls themselves."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from guideflow._given import in_range
from guideflow.problem import Problem
from guideflow.solvers.base import Memory, State, clipped, gradients, norm, require_clip, shifts, step_size
from guideflow.solvers.control import ControlSolver, Move


@final
@dataclass(frozen=True)
class FlowGrad(ControlSolver):
    """FlowGrad: descend on additive controls, each with its own gradient.

        u_k <- (1 - decay) u_k - s N(g_k),    k = 1..K,   z_0 fixed                            (noise = 0)
        z_0 <- z_0 - noise (s N(g_0) + decay (z_0 - z_init)),   back on the shell of z_init    (noise > 0)

    with g_k = dL/dz_k = dL/du_k, N(g) = g / max(norm(g), 1) and s = scale sqrt(d) / 128. The decay pulls the controls
    to zero and the image to the unguided one; it is the running cost of OC-Flow.

    With `clip`, N(g) = g / max(norm(g), clip norm(g at the start)): steps keep their length until the gradient has
    shrunk to that share, whatever the unit of the loss; then they shrink with it.

    One rollout per iteration: K network evaluations and their input gradients.

    Arguments:
        scale: step size, at least 0. 0 leaves the image as it is.
        decay: share of each control that is forgotten per iteration, in [0, 1).
        noise: step of the first state relative to that of the controls, at least 0. Of use to samplers of one step,
            whose only control edits the finished latent.
        clip: share of the first gradient's norm, of each image and window, above which gradients are clipped, in
            (0, 1]; None clips at a norm of 1, as the paper's code does, which depends on the unit of the loss.

    Source: Liu et al., FlowGrad: Controlling the Output of Generative ODEs with Gradients (CVPR 2023), without its
    non-uniform discretisation; Wang et al., OC-Flow (2025), for the decay.
    Not for keeping images natural: the last control edits the finished latent directly, like an adversarial attack.
    """

    name: ClassVar[str] = "flowgrad"

    scale: float = 1.0
    decay: float = 0.0
    noise: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        in_range("scale", self.scale, 0)
        in_range("decay", self.decay, 0, 1)
        in_range("noise", self.noise, 0)
        require_clip(self.clip)

    def remember(self, problem: Problem, state: State) -> Memory:
        """Remember the norms of the first gradients, (B, K + 1)."""
        return {} if self.clip is None else {"first": norm(gradients(state)).flatten(1).T}

    def move(self, problem: Problem, state: State) -> Move:
        """Move every control, and perhaps z_0, against its own gradient."""
        g = gradients(state)
        first = norm(g) if self.clip is None else state.memory["first"].T.view_as(norm(g))
        d = -step_size(self.scale, state.z0) * clipped(g, self.clip, first) - self.decay * shifts(problem, state)
        return Move(torch.cat([self.noise * d[:1], d[1:]]), state.memory)
