"""Anchored classifier guidance, the method of RectifID."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from guideflow._given import in_range, one_of, plain_number
from guideflow.errors import InvalidArgument
from guideflow.problem import Problem
from guideflow.sampler import AffineSampler, Sampler
from guideflow.solvers.base import State, gradients, per_window, step_size
from guideflow.solvers.base import unit_clip as N
from guideflow.solvers.control import ControlSolver, Move


@final
@dataclass(frozen=True)
class Anchored(ControlSolver):
    """Anchored guidance: keep the trajectory close to what the sampler would do from each new starting point.

        u_k <- u_k - s c_k N(g_{k-1}),    k = 1..K,   z_0 fixed           (anchor="moving")
        u_k <-     - s c_k   g_{k-1}                                      (anchor="fixed")

    with g_k the gradient of the scaled loss at state z_k, c_k the gain of window k, N(g) = g / max(norm(g), 1) and
    s = scale sqrt(d) / 128. The moving anchor is Algorithm 1. It keeps a reference trajectory z_k with end points e_k
    and a target trajectory zhat_k, and both of its updates are differences from end points, so that they telescope:

        Eq. (15)    z_k' - e_k' = (z_k - e_k) + c_k (zhat_k - e_k)        with u_k = z_k - e_k
        Eq. (16)    zhat_k - e_k = -s N(g_{k-1})                          u_k' = u_k - s c_k N(g_{k-1})

    The fixed anchor is the fixed-point iteration of Eq. (11), for windows Eq. (14), itself, which converges linearly
    for small s (Proposition 2).

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
    gain: Literal["sampler", "unit"] | float | Sequence[float] = "sampler"

    def __post_init__(self) -> None:
        in_range("scale", self.scale, 0)
        one_of("anchor", self.anchor, ("moving", "fixed"))
        if isinstance(self.gain, str):
            one_of("gain", self.gain, ("sampler", "unit"))
            return
        object.__setattr__(self, "gain", plain_number(self.gain))
        if isinstance(self.gain, Iterable):
            object.__setattr__(self, "gain", tuple(self.gain))  # as a saved run has it, a list
        for c in self.gain if isinstance(self.gain, tuple) else (self.gain,):
            in_range("gain", c, 0)

    def move(self, problem: Problem, state: State) -> Move:
        """Move every control against the gradient at the start of its window."""
        s = step_size(self.scale, state.z0)
        c = per_window(self.gains(problem.sampler), state.controls)
        g = gradients(state)[:-1]
        return Move.of_controls(-s * c * N(g) if self.anchor == "moving" else -s * c * g - state.controls)

    def gains(self, sampler: Sampler) -> Sequence[float]:
        """Return c_1..c_K for a sampler."""
        if self.gain == "sampler" and isinstance(sampler, AffineSampler):
            return sampler.schedule.gain
        if isinstance(self.gain, str):
            return (1.0,) * sampler.num_steps
        if isinstance(self.gain, int | float):
            return (self.gain,) * sampler.num_steps
        if len(self.gain) != sampler.num_steps:
            raise InvalidArgument(f"Anchored got {len(self.gain)} gains for a sampler of {sampler.num_steps} steps.")
        return self.gain
