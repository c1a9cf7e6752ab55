"""RectifID's published loop as a solver, by the arithmetic of its callback: a row of `peers.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

import guideflow as gf
from guideflow.solvers import gradients, unguided, unit_clip


@dataclass(frozen=True)
class Official(gf.Solver):
    """SGD on the latents of every step, re-anchored in the callback that the pipeline calls after each.

        zhat_k = e_k - lr g_{k-1} / max(norm(g_{k-1}), 1)                      before the pass
        z_k' = z_k + (e_k' - e_k) + gain (zhat_k - e_k)                         in it, after step k

    with z_k and e_k those of the pass before. The gain is the published script's, which is right for PeRFlow's first
    window and is used for all. `lr` is not in proportion to the latent's size, as the script has it. That this is
    `gf.Anchored(gain=0.95796674)` in another unit is a test.
    """

    name: ClassVar[str] = "rectifid"

    lr: float = 1.0
    gain: float = 0.95796674

    def init(self, problem: gf.Problem) -> gf.State:
        """Return the unguided state."""
        return unguided(problem)

    def step(self, problem: gf.Problem, state: gf.State) -> gf.State:
        """Update the targets, and pass once."""
        last = state.rollout
        target = last.end_points - self.lr * unit_clip(gradients(state)[:-1])

        def callback(k: int, e: Tensor) -> Tensor:
            offset, update = e - last.end_points[k], target[k] - last.end_points[k]
            return last.states[k + 1] + offset + self.gain * update - e

        rollout = problem.rollout(state.z0, callback)
        return gf.State(state.iteration + 1, state.z0, rollout.states[1:] - rollout.end_points, rollout)
