"""Fixed-point guidance without an anchor, the paper's first attempt."""

from dataclasses import dataclass, replace
from typing import ClassVar, cast, final

import torch

from guideflow.problem import Problem
from guideflow.sampler import AffineSampler, Sampler
from guideflow.solvers._base import Solver, State, gradients, require_range, start, step_size
from guideflow.solvers._base import unit_clip as N


@final
@dataclass(frozen=True)
class Unanchored(Solver[State]):
    """Unanchored guidance: iterate the fixed-point equation of a straight flow at the end of each window.

        z_k <- a_k z_{k-1} + b_k f(z_k, t_{k+1}) + d_k n_k - s N(g_k),    k = 1..K in this order,   z_0 fixed

    with the network f at the window's end point and end time, g_k the gradient at z_k, N(g) = g / max(norm(g), 1) and
    s = scale sqrt(d) / 128. On the right, z_{k-1} is already the new one. A scale of 0 switches guidance off, so the
    unguided trajectory is returned as it is; the limit of a small scale is the implicit scheme above, which differs
    from it unless the flow is straight.

    Costs 2 K network evaluations per iteration, K of them with input gradients (one rollout).

    Arguments:
        scale: guidance scale, at least 0. 0 leaves the image as it is.

    Source: Sun et al., RectifID (2024), Eq. (8), window by window as in Eq. (13).
    Not for production: nothing anchors the trajectory, and by Proposition 1 the iteration may diverge for every scale.
    It is here for comparison. Needs the network itself, that is an `AffineSampler`.
    """

    name: ClassVar[str] = "unanchored"
    requires: ClassVar[type[Sampler]] = AffineSampler  # type: ignore[type-abstract]

    scale: float = 1.0

    def __post_init__(self) -> None:
        """Validate the hyper-parameters."""
        require_range(self, "scale", 0)

    def init(self, problem: Problem) -> State:
        """Return the unguided state."""
        self.check(problem)
        return start(problem)

    def step(self, problem: Problem, state: State) -> State:
        """Sweep once through the windows."""
        if self.scale == 0:
            return replace(state, iteration=state.iteration + 1)
        sampler = cast(AffineSampler, problem.sampler)
        s = step_size(self.scale, state.z0)
        pull = s * N(gradients(state)[1:])
        states = [state.z0]
        for k, row in enumerate(sampler.schedule):
            problem.evaluations.count += 1
            with torch.no_grad():
                f = sampler.predict(state.rollout.states[k + 1], row._replace(time=row.end_time), problem.condition)
            z = row.state * states[k] + row.output * f.to(state.z0.dtype) - pull[k]
            noise = problem.noise.steps[k]
            states.append(z if noise is None else z + row.noise * noise)
        controls, rollout = problem.rollout_through(state.z0, torch.stack(states[1:]))
        return replace(state, iteration=state.iteration + 1, controls=controls, rollout=rollout)
