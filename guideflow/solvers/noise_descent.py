"""Gradient descent on the initial noise, the common baseline."""

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from guideflow._given import in_range, one_of
from guideflow.problem import Problem
from guideflow.solvers.base import Solver, State, deviation, gradients, norm, step_size, unguided


@final
@dataclass(frozen=True)
class NoiseDescent(Solver):
    """Noise descent: momentum SGD on the initial noise, pulled back to where it started.

        v <- momentum v + s g_0 + l2 (z_0 - initial) + chi dR/dz_0,      z_0 <- z_0 - lr v,      u = 0

    with g_0 the gradient of the scaled loss at z_0 and s = scale sqrt(d) / 128. The loss that is scaled is
    `loss_scale` x loss (100 by default), so at the paper's 4 x 64 x 64 latents and scale 1 this is plain SGD on
    100 L + (l2 / 2) norm(z_0 - initial)^2; for other sizes s keeps the shift in proportion to norm(z_0), so that one
    learning rate serves all. R is the negative log density of the noise's norm, a chi variable with d degrees of
    freedom: R = norm(n)^2 / 2 - (d - 1) log norm(n).

    One rollout per iteration: K network evaluations and their input gradients.

    Arguments:
        lr: learning rate, at least 0.
        momentum: share of the velocity that is kept, in [0, 1).
        l2: pull towards the initial noise, at least 0.
        unit_gradient: divide g_0 by its norm, so that every iteration moves equally far (DNO, DOODL).
        chi: weight of the chi-norm regulariser, at least 0 (D-Flow, ReNO).
        scale: weight of the loss, at least 0. 0 leaves the image as it is (with chi = 0).

    Source: Wallace et al., DOODL (2023); Ben-Hamu et al., D-Flow (2024); Eyring et al., ReNO (2024); the defaults are
    those of RectifID's Fig. 6.
    Not for speed or stability: it needs more iterations than anchored guidance and is sensitive to the learning rate.
    """

    name: ClassVar[str] = "noise-descent"

    lr: float = 0.4
    momentum: float = 0.9
    l2: float = 1.0
    unit_gradient: bool = False
    chi: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "l2", "chi", "scale"):
            in_range(name, getattr(self, name), 0)
        in_range("momentum", self.momentum, 0, 1)
        one_of("unit_gradient", self.unit_gradient, (True, False))

    def init(self, problem: Problem) -> State:
        """Return the unguided state at rest."""
        return replace(unguided(problem), memory={"velocity": torch.zeros_like(problem.z0)})

    def step(self, problem: Problem, state: State) -> State:
        """Take one step of momentum SGD."""
        g = gradients(state)[0]
        if self.unit_gradient:
            g = g / norm(g[None])[0].clamp(min=torch.finfo(g.dtype).tiny)
        v = self.momentum * state.memory["velocity"] + step_size(self.scale, g) * g
        v = v + self.l2 * (state.z0 - problem.z0)
        if self.chi:
            v = v + self.chi * chi_gradient(problem, state.z0)
        z0 = state.z0 - self.lr * v
        return State(state.iteration + 1, z0, state.controls, problem.rollout(z0, state.controls), {"velocity": v})


def chi_gradient(problem: Problem, z0: Tensor) -> Tensor:
    """Return the gradient of norm(n)^2 / 2 - (d - 1) log norm(n) for n = z_0 in units of its standard deviation."""
    n = z0 / deviation(problem)
    return (1 - (n[0].numel() - 1) / norm(n[None])[0] ** 2) * n / deviation(problem)
