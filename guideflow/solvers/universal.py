"""Universal guidance, its forward half: the gradient through one evaluation of the network corrects its output."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from guideflow._require import count, in_range
from guideflow.problem import Problem
from guideflow.sampler import Row
from guideflow.solvers.base import step_size, unit_clip
from guideflow.solvers.lookahead import Key, LookaheadSolver, Outlook, look
from guideflow.types import Latent


@final
@dataclass(frozen=True)
class Universal(LookaheadSolver):
    """Forward universal guidance: correct the predicted noise by the gradient at the clean picture it leads to.

        f' = f + s noise_k N(dL/dz_k),    L at x = A z_k + B f(z_k, t_k)
        z_{k+1} = a_k z_k + b_k f' + d_k n_k

    for predicted noise, where b_k < 0; of velocities the sign is the other one, so that the window's end moves by
    -|b_k| s noise_k N(g) in any case. The gradient passes through the network of this window and no other. N(g) =
    g / max(norm(g), 1), s = scale sqrt(d) / 128.

    An iteration is a pass: about K network evaluations with their input gradients, and as many gradients of decoder and
    loss; times `repeats`.

    Arguments:
        scale: step size, at least 0. 0 leaves the image as it is.
        repeats: how often each window but the first is gone through, from its end back to its start with new noise in
            between: the source's self-recurrence.

    Source: Bansal et al., Universal Guidance for Diffusion Models (2023), forward guidance; made for hundreds of steps.
    Not for few steps, strictly: the picture that the first windows expect is blurred, and losses see little in it.
    Needs the network itself, that is an `AffineSampler`, of predicted noise or of velocities.
    """

    name: ClassVar[str] = "universal"

    scale: float = 4.0
    repeats: int = 1

    def __post_init__(self) -> None:
        in_range("scale", self.scale, 0)
        count("repeats", self.repeats)

    @property
    def recurrences(self) -> int:
        """How often a window is gone through."""
        return self.repeats if self.scale else 1

    def guide(
        self, problem: Problem, outlook: Outlook, row: Row, z: Latent, u: Latent, key: Key
    ) -> tuple[Tensor, Tensor]:
        """Move the end of the window as the corrected output does."""
        sight = look(problem, outlook, row, z, u, through=True)
        assert sight.by_state is not None
        b = abs(row.output)
        return sight.output, -b * step_size(self.scale, z) * outlook.noise[row.index] * unit_clip(sight.by_state[None])[
            0
        ]
