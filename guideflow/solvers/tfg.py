"""Training-free guidance, the common frame of the guidance rules of many-step samplers."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from guideflow._given import count, in_range
from guideflow.problem import Problem
from guideflow.solvers.base import step_size, unit_clip
from guideflow.solvers.draws import draw
from guideflow.solvers.lookahead import Guided, LookaheadSolver, Window, clean_gradient, look
from guideflow.solvers.outlook import Outlook


@final
@dataclass(frozen=True)
class TFG(LookaheadSolver):
    """TFG: gradients at the state and at the clean picture, both of a loss that is smoothed by noise; and recurrence.

        g_z = d/dz_k mean_j L(x + smooth noise_k xi_j),   xi_j ~ N(0, 1),   j = 1..draws
        x = A z_k + B f(z_k, t_k)
        y_0 = x,   y_i = y_{i-1} - mean_shift s N(dL/dy_{i-1}),   i = 1..clean_moves
        z_{k+1} = e_{k+1} - a_k state_shift s N(g_z) + signal_{k+1} (y_end - x)

    g_z passes through the network of this window. With N(g) = g / max(norm(g), 1) and s = scale sqrt(d) / 128. Others
    are special cases: mean_shift = 0 is DPS, with draws also LGD, with recurrence FreeDoM; state_shift = 0 is MPGD.

    An iteration is a pass: about K network evaluations with input gradients and K (draws + clean_moves) gradients of
    decoder and loss; times `repeats`. With state_shift = 0 no gradient passes through the network.

    Arguments:
        scale: step size, at least 0. 0 leaves the image as it is.
        state_shift: weight of the state's gradient (rho in the paper), at least 0.
        mean_shift: weight of the clean picture's moves (mu in the paper), at least 0.
        smooth: standard deviation of the noise around the clean picture, in proportion to the noise that is left; 0 for
            none.
        draws: number of such noises.
        clean_moves: moves of the clean picture in each window.
        repeats: how often each window but the first is gone through.

    Source: Ye et al., TFG: Unified Training-Free Guidance for Diffusion Models (NeurIPS 2024), Algorithm 1.
    Not for few steps, strictly: it was made for a hundred, and has as many settings as they allow. Needs the network
    itself, that is an `AffineSampler`, of predicted noise or of velocities.
    """

    name: ClassVar[str] = "tfg"

    scale: float = 4.0
    state_shift: float = 0.5
    mean_shift: float = 0.5
    smooth: float = 0.1
    draws: int = 1
    clean_moves: int = 1
    repeats: int = 1

    def __post_init__(self) -> None:
        for name in ("scale", "state_shift", "mean_shift", "smooth"):
            in_range(name, getattr(self, name), 0)
        for name in ("draws", "clean_moves", "repeats"):
            count(name, getattr(self, name))

    @property
    def recurrences(self) -> int:
        """How often a window is gone through."""
        return self.repeats if self.scale else 1

    def guide(self, problem: Problem, outlook: Outlook, window: Window) -> Guided:
        """Move the end of the window by both gradients."""
        spread = self.smooth * outlook.noise[window.row.index]
        around = [spread * draw(problem, *window.key, j) for j in range(self.draws)] if spread else []
        sight = look(
            problem, outlook, window.row, window.z, window.u, through=bool(self.state_shift > 0), around=around
        )
        s, change = step_size(self.scale, window.z), torch.zeros_like(window.z)
        if sight.by_state is not None:
            a = window.row.state
            change = change - a * self.state_shift * s * unit_clip(sight.by_state[None])[0]
        clean, g = sight.clean, sight.by_clean
        for i in range(self.clean_moves if self.mean_shift else 0):
            g = clean_gradient(problem, clean) if i else g
            clean = clean - self.mean_shift * s * unit_clip(g[None])[0]
        return Guided(sight.output, change + outlook.signal[window.row.index + 1] * (clean - sight.clean))
