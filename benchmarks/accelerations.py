"""Accelerations and regularisers that did not pay; `acceleration.py` measures them beside those of the library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import guideflow as gf
from guideflow.solvers import Move, Wrapper, by_image, norm, per_window, step_size


def flat(values: Tensor) -> Tensor:
    """(K + 1, B, ...) -> (B, n)."""
    return by_image(values).flatten(1)


def unflat(values: Tensor, like: Tensor) -> Tensor:
    """(B, n) -> (K + 1, B, ...)."""
    return by_image(values.view_as(by_image(like)))


def unknowns(state: gf.State) -> Tensor:
    """z_0 and u_1..u_K, (K + 1, B, ...)."""
    return torch.cat([state.z0[None], state.controls])


@dataclass(frozen=True)
class Remembering(Wrapper):
    """A wrapper that keeps the last `memory` pairs (change of the controls, change of the move), newest last."""

    memory: int = 5

    def first(self, problem: gf.Problem, state: gf.State) -> Mapping[str, Tensor]:
        """Zeros, which weigh nothing."""
        u = flat(unknowns(state))
        pairs = u.new_zeros(len(u), self.memory, u.shape[1])
        return {"du": pairs, "dd": pairs, "u": u, "d": torch.zeros_like(u), "started": state.rollout.loss * 0}

    def pairs(self, state: gf.State, d: Tensor) -> dict[str, Tensor]:
        """The memory with the last move's pair."""
        u = flat(unknowns(state))
        new = {}
        for key, now in (("u", u), ("d", flat(d))):
            change = (now - state.memory[key]) * state.memory["started"][:, None]
            new[f"d{key}"] = torch.cat([state.memory[f"d{key}"][:, 1:], change[:, None]], 1)
        return new | {"u": u, "d": flat(d), "started": torch.ones_like(state.rollout.loss)}


@dataclass(frozen=True)
class Anderson(Remembering):
    """Anderson acceleration of the fixed point u = u + d(u) (type II, ridge, step at most `longest` plain ones)."""

    name: ClassVar[str] = "anderson"

    ridge: float = 1e-2
    longest: float = 5.0

    def change(self, problem: gf.Problem, state: gf.State, d: Tensor) -> Move:
        """u <- u + d - (dU + dD) gamma, with gamma = argmin norm(d - dD gamma)."""
        own = self.pairs(state, d)
        du, dd, like, d = own["du"], own["dd"], d, own["d"]
        normal = dd @ dd.mT
        weight = normal.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-12)
        eye = torch.eye(self.memory, dtype=d.dtype, device=d.device)
        gamma = torch.linalg.solve(normal + self.ridge * weight.view(-1, 1, 1) * eye, dd @ d[:, :, None])
        step = d - ((du + dd).mT @ gamma)[:, :, 0]
        limit = self.longest * d.norm(dim=1) / step.norm(dim=1).clamp(min=1e-12)
        return Move(unflat(step * limit.clamp(max=1)[:, None], like), own)


@dataclass(frozen=True)
class LBFGS(Remembering):
    """Limited-memory BFGS with the move in place of the negative gradient, and a cap on each step."""

    name: ClassVar[str] = "lbfgs"

    memory: int = 6
    cap: float = 4.0

    def change(self, problem: gf.Problem, state: gf.State, d: Tensor) -> Move:
        """u <- u + H d, no longer than `cap` in scales for each window."""
        own = self.pairs(state, d)
        s, y = own["du"], -own["dd"]
        curvature = (s * y).sum(2)
        good = curvature > 1e-8 * s.norm(dim=2) * y.norm(dim=2)
        rho = torch.where(good, 1 / torch.where(good, curvature, 1), 0)
        q, alphas = own["d"], []
        for j in reversed(range(self.memory)):
            alphas.append(rho[:, j] * (s[:, j] * q).sum(1))
            q = q - alphas[-1][:, None] * y[:, j]
        gamma = q.new_ones(len(q))
        for j in range(self.memory):
            gamma = torch.where(good[:, j], curvature[:, j] / y[:, j].square().sum(1).clamp(min=1e-12), gamma)
        q = gamma[:, None] * q
        for j, alpha in zip(range(self.memory), reversed(alphas), strict=True):
            beta = rho[:, j] * (y[:, j] * q).sum(1)
            q = q + torch.where(good[:, j], alpha - beta, 0)[:, None] * s[:, j]
        change = unflat(q, d)
        limit = self.cap * step_size(1.0, state.z0) / norm(change).clamp(min=1e-12)
        return Move(change * limit.clamp(max=1), own)


@dataclass(frozen=True)
class NormCap(Wrapper):
    """Keep each control within a share of the noise that is left in its window: norm(u_k) <= share t_k norm(z_0)."""

    name: ClassVar[str] = "norm-cap"

    share: float = 0.1

    def change(self, problem: gf.Problem, state: gf.State, d: Tensor) -> Move:
        """Shorten what would be too long; the last window, without noise, gets the share of the window before."""
        times = problem.sampler.schedule.times
        times_left = state.z0.new_tensor([*times[1:], times[-1] / 2]) / 1000
        u = state.controls + d[1:]
        most = self.share * times_left.view(-1, *[1] * (u.dim() - 1)) * norm(state.z0[None])
        u = u * (most / norm(u).clamp(min=1e-12)).clamp(max=1)
        return Move(torch.cat([d[:1], u - state.controls]))


@dataclass(frozen=True)
class Moments(Wrapper):
    """Keep each channel's mean and spread of the final latent near the unguided sample's, by the last control."""

    name: ClassVar[str] = "moments"

    strength: float = 0.5

    def first(self, problem: gf.Problem, state: gf.State) -> Mapping[str, Tensor]:
        """Mean and spread of the unguided sample."""
        z = state.rollout.states[-1].flatten(2)
        return {"mean": z.mean(2), "spread": z.std(2)}

    def change(self, problem: gf.Problem, state: gf.State, d: Tensor) -> Move:
        """Move, then bring the statistics of the last state part of the way back."""
        mean, spread = (state.memory[key][..., None, None] for key in ("mean", "spread"))
        z = state.rollout.states[-1]
        own_mean, own_spread = z.mean((2, 3), keepdim=True), z.std((2, 3), keepdim=True)
        wanted = (z - own_mean) / own_spread * spread + mean
        change = d.clone()
        change[-1] += self.strength * (wanted - z)
        return Move(change, state.memory)


@dataclass(frozen=True)
class ByLevel(Wrapper):
    """Weigh the windows by the noise that is left at their end: l_k^power, the longest one's being 1."""

    name: ClassVar[str] = "by-level"

    power: float = 0.5

    def change(self, problem: gf.Problem, state: gf.State, d: Tensor) -> Move:
        """Shorten the moves of late windows; the last, at level 0, does not move."""
        levels = [level**self.power for level in problem.sampler.end_levels]
        return Move(torch.cat([d[:1], per_window([level / max(levels) for level in levels], d[1:]) * d[1:]]))
