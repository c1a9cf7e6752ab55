"""Manifold-preserving guidance: move the clean picture that is expected, and leave the network out of the gradient."""

from dataclasses import dataclass
from typing import ClassVar, final

from guideflow._given import in_range
from guideflow.problem import Problem
from guideflow.solvers.base import step_size, unit_clip
from guideflow.solvers.lookahead import Guided, LookaheadSolver, Window, look
from guideflow.solvers.outlook import Outlook


@final
@dataclass(frozen=True)
class MPGD(LookaheadSolver):
    """MPGD: descend on the clean picture that each window expects, and step to its end with the noise as it was.

        x <- x - s N(dL/dx),    z_{k+1} = signal_{k+1} x + noise_{k+1} n

    so that the end of the window moves by -signal_{k+1} s N(dL/dx): little while there is mostly noise. N(g) =
    g / max(norm(g), 1), s = scale sqrt(d) / 128; the decoder of a latent sampler is the projection to the manifold.

    An iteration is a pass: K network evaluations without gradients, and K gradients of decoder and loss.

    Arguments:
        scale: step size, at least 0. 0 leaves the image as it is.

    Source: He et al., Manifold Preserving Guided Diffusion (ICLR 2024), its variant without an autoencoder of its own.
    Not for losses that look through a network, which see little in the blurred picture of the first windows. Needs the
    network itself, that is an `AffineSampler`, of predicted noise or of velocities.
    """

    name: ClassVar[str] = "mpgd"

    scale: float = 4.0

    def __post_init__(self) -> None:
        in_range("scale", self.scale, 0)

    def guide(self, problem: Problem, outlook: Outlook, window: Window) -> Guided:
        """Move the end of the window as its clean picture moves."""
        sight = look(problem, outlook, window.row, window.z, window.u)
        s = outlook.signal[window.row.index + 1] * step_size(self.scale, window.z)
        return Guided(sight.output, -s * unit_clip(sight.by_clean[None])[0])
