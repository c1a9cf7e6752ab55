"""Reward-based noise optimisation: the setting of noise descent for samplers of one step."""

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch

from guideflow._given import in_range
from guideflow.problem import Problem
from guideflow.solvers.base import Solver, State, gradients, norm, step_size, unguided
from guideflow.solvers.noise_descent import chi_gradient


@final
@dataclass(frozen=True)
class ReNO(Solver):
    """ReNO: Nesterov's descent on the noise, short gradients, and noise kept as long as noise is.

        G = g_0 + chi dR/dz_0,        G <- G min(1, c / norm(G)),    c = clip sqrt(d) / 128
        v <- momentum v + G,          z_0 <- z_0 - lr (G + momentum v),     u = 0

    with g_0 the gradient of the scaled loss at z_0 and R = norm(n)^2 / 2 - (d - 1) log norm(n) for z_0 in units of its
    standard deviation: the negative log density of the norm. All lengths are those of the paper at its 4 x 64 x 64
    latents, and in proportion to norm(z_0) elsewhere.

    One rollout per iteration: K network evaluations and their input gradients.

    Arguments:
        lr: learning rate, at least 0.
        momentum: share of the velocity that is kept, in [0, 1).
        clip: longest gradient, above 0.
        chi: weight of R, at least 0.

    Source: Eyring et al., ReNO: Enhancing One-step Text-to-Image Models through Reward-based Noise Optimization (2024),
    with its constants; 50 iterations there.
    Not for long chains, through which gradients vanish or explode.
    """

    name: ClassVar[str] = "reno"

    lr: float = 5.0
    momentum: float = 0.9
    clip: float = 0.1
    chi: float = 0.01

    def __post_init__(self) -> None:
        in_range("lr", self.lr, 0)
        in_range("momentum", self.momentum, 0, 1)
        in_range("clip", self.clip, 0, ends="(]")
        in_range("chi", self.chi, 0)

    def init(self, problem: Problem) -> State:
        """Return the unguided state at rest."""
        return replace(unguided(problem), memory={"velocity": torch.zeros_like(problem.z0)})

    def step(self, problem: Problem, state: State) -> State:
        """Take one step."""
        G = gradients(state)[0] + self.chi * chi_gradient(problem, state.z0)
        G = G * (step_size(self.clip, G) / norm(G[None])[0].clamp(min=torch.finfo(G.dtype).tiny)).clamp(max=1)
        v = self.momentum * state.memory["velocity"] + G
        z0 = state.z0 - self.lr * (G + self.momentum * v)
        return State(state.iteration + 1, z0, state.controls, problem.rollout(z0, state.controls), {"velocity": v})
