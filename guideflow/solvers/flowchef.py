"""FlowChef: gradient skipping, the cheapest way to steer a flow."""

from dataclasses import dataclass
from typing import ClassVar, final

from guideflow._given import in_range
from guideflow.problem import Problem
from guideflow.solvers.base import step_size, unit_clip
from guideflow.solvers.lookahead import Guided, LookaheadSolver, Window, look
from guideflow.solvers.outlook import Outlook


@final
@dataclass(frozen=True)
class FlowChef(LookaheadSolver):
    """FlowChef: move each state by the gradient at the clean picture expected from it, the network taken as constant.

        x = A z_k + B f(z_k),    g = A dL/dx   (the path through f is skipped)
        z_{k+1} = e_{k+1} - a_k s N(g)

    with f evaluated before the move, as in the source. Of a straight flow A = a = 1, so that a state moves exactly as
    far as its clean picture. N(g) = g / max(norm(g), 1), s = scale sqrt(d) / 128. The last window, whose end is the
    finished latent, is steered too.

    An iteration is a pass: K network evaluations without gradients, and K gradients of decoder and loss.

    Arguments:
        scale: step size, at least 0. 0 leaves the image as it is.

    Source: Patel et al., FlowChef: Steering of Rectified Flow Models for Controlled Generations (ICCV 2025), with one
    move a window; for several, ask for more iterations.
    Not for losses that look through a network: without the Jacobian their gradients lead off the data. Needs the
    network itself, that is an `AffineSampler`, of velocities or of predicted noise.
    """

    name: ClassVar[str] = "flowchef"

    scale: float = 4.0

    def __post_init__(self) -> None:
        in_range("scale", self.scale, 0)

    def guide(self, problem: Problem, outlook: Outlook, window: Window) -> Guided:
        """Move the end of the window as its start would have been moved."""
        sight = look(problem, outlook, window.row, window.z, window.u)
        a, s = window.row.state, step_size(self.scale, window.z)
        return Guided(sight.output, -a * s * unit_clip(outlook.state[window.row.index] * sight.by_clean[None])[0])
