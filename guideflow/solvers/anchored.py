"""Anchored classifier guidance, the method of RectifID."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal, final

from guideflow.errors import InvalidArgument
from guideflow.problem import Problem
from guideflow.sampler import AffineSampler, Sampler
from guideflow.solvers._base import (
    State,
    gradients,
    per_window,
    require_range,
    step_size,
)
from guideflow.solvers._base import unit_clip as N
from guideflow.solvers.control import ControlSolver, Move


@final
@dataclass(frozen=True)
class Anchored(ControlSolver):
    """Anchored guidance: keep the trajectory close to what the sampler would do from each new starting point.

        u_k <- u_k - s c_k N(g_{k-1}),    k = 1..K,   z_0 fixed           (anchor="moving")
        u_k <-     - s c_k   g_{k-1}                                      (anchor="fixed")

    with g_k the gradient of the scaled loss at state z_k, c_k the gain of window k, N(g) = g / max(norm(g), 1)
    and s = scale sqrt(d) / 128. The moving anchor is Algorithm 1 with Eqs. (15)-(16): the bookkeeping of reference and
    target trajectories telescopes to this line. The fixed anchor is the fixed-point iteration of Eqs. (11) and (14)
    itself, which converges linearly for small s (Proposition 2).

    One rollout per iteration: K network evaluations and their input gradients.

    Arguments:
        scale: guidance scale, at least 0; the paper's s on a 4 x 64 x 64 latent. 0 leaves the image as it is.
        anchor: "moving" re-anchors every iteration and keeps improving; "fixed" stays close to the unguided image.
        gain: relative step sizes c_k: "sampler" for those of the sampler's schedule (1 if it has none), "unit" for 1,
            or a number for all windows, or one for each.

    Source: Sun et al., RectifID: Personalizing Rectified Flow with Anchored Classifier Guidance (2024).
    Not for samplers with strongly curved trajectories inside a step: the straight-through gradient is then biased.
    With anchor="fixed" a scale beyond 1 / (norm of Jacobian x Lipschitz constant of the gradient) diverges.
    """

    name: ClassVar[str] = "anchored"

    scale: float = 1.0
    anchor: Literal["moving", "fixed"] = "moving"
    gain: Literal["sampler", "unit"] | float | tuple[float, ...] = "sampler"

    def __post_init__(self) -> None:
        """Validate the hyper-parameters."""
        require_range(self, "scale", 0)
        if self.anchor not in ("moving", "fixed"):
            raise InvalidArgument(f"Anchored got anchor = {self.anchor!r}. Expected 'moving' or 'fixed'.")
        gains = self.gain if isinstance(self.gain, tuple | list) else (self.gain,)
        if self.gain not in ("sampler", "unit") and not all(isinstance(c, int | float) and 0 <= c < inf for c in gains):
            raise InvalidArgument(f"Anchored got gain = {self.gain!r}. Expected 'sampler', 'unit', or a number: 0.958.")
        if isinstance(self.gain, list):
            object.__setattr__(self, "gain", tuple(self.gain))

    def move(self, problem: Problem, state: State) -> Move:
        """Move every control against the gradient at the start of its window."""
        s = step_size(self.scale, state.z0)
        c = per_window(self._gains(problem.sampler), state.controls)
        g = gradients(state)[:-1]
        return Move.of_controls(-s * c * N(g) if self.anchor == "moving" else -s * c * g - state.controls)

    def _gains(self, sampler: Sampler) -> tuple[float, ...]:
        if self.gain == "sampler" and isinstance(sampler, AffineSampler):
            return sampler.schedule.gain
        if isinstance(self.gain, str):
            return (1.0,) * sampler.num_steps
        if not isinstance(self.gain, tuple):
            return (self.gain,) * sampler.num_steps
        if len(self.gain) != sampler.num_steps:
            raise InvalidArgument(f"Anchored got {len(self.gain)} gains for a sampler of {sampler.num_steps} steps.")
        return self.gain
