"""Universal guidance, its forward half: the gradient through one evaluation of the network corrects its output."""

from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch

from guideflow._given import count, in_range
from guideflow.problem import Problem
from guideflow.solvers.base import Memory, State, clipped, norm, require_clip, step_size
from guideflow.solvers.lookahead import Guided, LookaheadSolver, Window, look
from guideflow.solvers.outlook import Outlook

_ROUNDING: Final = 1e3  # so many units in the last place are no gradient, and not to be lengthened


@final
@dataclass(frozen=True)
class Universal(LookaheadSolver):
    """Forward universal guidance: correct the predicted noise by the gradient at the clean picture it leads to.

        f' = f + s noise_k N(dL/dz_k),    L at x = A z_k + B f(z_k, t_k)
        z_{k+1} = a_k z_k + b_k f' + d_k n_k

    for predicted noise, where b_k < 0; of velocities the sign is the other one, so that the window's end moves by
    -|b_k| s noise_k N(g) in any case. The gradient passes through the network of this window and no other. N(g) =
    g / max(norm(g), 1), s = scale sqrt(d) / 128.

    With `clip`, N(g) = g / max(norm(g), clip norm(g at the window's first visit)), whatever the unit of the loss.

    An iteration is a pass: about K network evaluations with their input gradients, and as many gradients of decoder and
    loss; times `repeats`.

    Arguments:
        scale: step size, at least 0. 0 leaves the image as it is.
        repeats: how often each window but the first is gone through, from its end back to its start with new noise in
            between: the source's self-recurrence.
        clip: share of the first gradient's norm, of each image and window, above which gradients are clipped, in
            (0, 1]; None clips at a norm of 1, which depends on the unit of the loss.
        decay: share of what earlier passes have found that is forgotten before the next one, in [0, 1].

    Source: Bansal et al., Universal Guidance for Diffusion Models (2023), forward guidance; made for hundreds of steps.
    With few steps the picture that the first windows expect is blurred, and losses see little in it: choose the start
    among several noises, as `Auto` does, and pass more than once.
    Needs the network itself, that is an `AffineSampler`, of predicted noise or of velocities.
    """

    name: ClassVar[str] = "universal"

    scale: float = 4.0
    repeats: int = 1
    clip: float | None = None
    decay: float = 0.0

    def __post_init__(self) -> None:
        in_range("scale", self.scale, 0)
        count("repeats", self.repeats)
        require_clip(self.clip)
        in_range("decay", self.decay, 0, 1, ends="[]")

    @property
    def recurrences(self) -> int:
        """How often a window is gone through."""
        return self.repeats if self.scale else 1

    @property
    def forgotten(self) -> float:
        """What a pass forgets of those before."""
        return self.decay

    def remember(self, problem: Problem, state: State) -> Memory:
        """Remember the norms of each window's first gradients, (B, K); before there are some, they are 0."""
        return {} if self.clip is None else {"first": state.z0.new_zeros(len(state.z0), problem.num_steps)}

    def guide(self, problem: Problem, outlook: Outlook, window: Window) -> Guided:
        """Move the end of the window as the corrected output does."""
        sight = look(problem, outlook, window.row, window.z, window.u, through=True)
        assert sight.by_state is not None
        g, outer = sight.by_state[None], norm(sight.by_clean[None])
        g = torch.where(
            norm(g) > _ROUNDING * torch.finfo(g.dtype).eps * outer, g, 0
        )  # nothing came through the network
        length = norm(g)
        first = length if window.first is None else window.first.view_as(length)
        first = torch.where(first > 0, first, length)
        s = abs(window.row.output) * step_size(self.scale, window.z) * outlook.noise[window.row.index]
        return Guided(sight.output, -s * clipped(g, self.clip, first)[0], length.flatten())
