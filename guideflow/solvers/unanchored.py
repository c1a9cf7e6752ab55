"""Fixed-point guidance without an anchor, the paper's first attempt."""

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch

from guideflow._answers import state_like
from guideflow._given import in_range
from guideflow.errors import IncompatibleSolver
from guideflow.problem import Problem
from guideflow.sampler import AffineSampler
from guideflow.solvers.base import Solver, State, gradients, step_size, unguided
from guideflow.solvers.base import unit_clip as N


@final
@dataclass(frozen=True)
class Unanchored(Solver):
    """Unanchored guidance: iterate the fixed-point equation of a straight flow at the end of each window.

        z_k <- a_k z_{k-1} + b_k f(z_k, t_{k+1}) + d_k n_k - s N(g_k),    k = 1..K in order

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

    scale: float = 1.0

    def __post_init__(self) -> None:
        in_range("scale", self.scale, 0)

    def init(self, problem: Problem) -> State:
        """Return the unguided state."""
        _network(problem)
        return unguided(problem)

    def step(self, problem: Problem, state: State) -> State:
        """Sweep once through the windows."""
        if self.scale == 0:
            return replace(state, iteration=state.iteration + 1)
        sampler = _network(problem)
        pull = step_size(self.scale, state.z0) * N(gradients(state)[1:])
        z, states = state.z0, []
        for k in range(sampler.num_steps):
            row = sampler.schedule[k]
            with torch.no_grad():
                f = sampler.predict(state.rollout.states[k + 1], row._replace(time=row.end_time), problem.condition)
            f = state_like(sampler, "predict", f, z)
            z = row.state * z - pull[k] + row.output * f.to(z.dtype)
            noise = problem.noise.steps[k]
            z = z if noise is None else z + row.noise * noise
            states.append(z)
        rollout = problem.rollout(state.z0, lambda k, end_point: states[k] - end_point)
        rollout = replace(rollout, evaluations=rollout.evaluations + sampler.num_steps)
        return State(state.iteration + 1, state.z0, torch.stack(states) - rollout.end_points, rollout)


def _network(problem: Problem) -> AffineSampler:
    if isinstance(problem.sampler, AffineSampler):
        return problem.sampler
    why = f"Unanchored needs the network itself, which an AffineSampler has and {type(problem.sampler).__name__} hides."
    cure = "which works with every sampler."
    raise IncompatibleSolver(f"{why} Use `gf.Anchored()`, {cure}").as_typed(f"{why} Type --solver anchored, {cure}")
