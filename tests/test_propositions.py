"""Propositions 1 and 2 of the paper, on problems with closed-form answers."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

import guideflow as gf
from guideflow.sampler import Row
from problems import Distance, linear, problem, run


class Identical(gf.AffineSampler):
    """The construction in the proof of Proposition 1: f(z) = L z, the same as the gradient of log p, with L > 1."""

    lipschitz = 1.5

    def __init__(self) -> None:
        self.schedule = gf.Schedule(times=(1000.0,), state=(1.0,), output=(1.0,))
        self.latent_shape, self.image_size = (4,), (1, 4)
        self.device, self.dtype = torch.device("cpu"), torch.float64

    def condition(self, prompts: object, negative_prompts: object = None) -> None:
        return None

    def predict(self, z: Tensor, row: Row, condition: None) -> Tensor:
        return self.lipschitz * z

    def decode(self, z: Tensor) -> Tensor:
        return z


def log_likelihood_loss(z: Tensor) -> Tensor:
    """Return -log p with gradient of log p equal to f, L z."""
    return -Identical.lipschitz / 2 * z.square().sum(1)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_proposition_1_unanchored_diverges_whatever_the_scale(scale: float) -> None:
    task = problem(Identical(), log_likelihood_loss, seeds=(0,), loss_scale=1.0)
    states = run(task, gf.Unanchored(scale=scale), 40)
    norms = torch.stack([state.rollout.states[-1].norm() for state in states])
    steps = torch.stack([(b.rollout.states[-1] - a.rollout.states[-1]).norm() for a, b in pairwise(states)])
    assert norms[-1] > 1e4 * norms[0]
    # The distance between iterates grows at the rate of the Lipschitz constant instead of shrinking.
    torch.testing.assert_close(steps[-1] / steps[-2], torch.tensor(1.5, dtype=torch.float64), rtol=0.02, atol=0)


@pytest.mark.slow
def test_anchored_stays_bounded_on_the_same_flow() -> None:
    task = problem(Identical(), lambda z: (z - 1).square().sum(1), seeds=(0,), loss_scale=1.0)
    losses = [state.rollout.loss.item() for state in run(task, gf.Anchored(scale=2.0), 400)]
    assert max(losses) <= losses[0] and losses[-1] < 1e-2


@pytest.mark.slow
def test_unanchored_solves_the_implicit_equation_when_it_contracts() -> None:
    sampler = linear(num_steps=3)
    task = problem(sampler, Distance(torch.zeros(6, dtype=torch.float64)), loss_scale=0.3)
    scale = 3.0
    state = run(task, gf.Unanchored(scale=scale), 300)[-1]
    z, g = state.rollout.states, state.rollout.gradients
    assert g is not None and bool((g.norm(dim=2) < 1).all())
    for k in range(1, 4):
        right = z[k - 1] + (z[k] @ sampler.matrix) / 3 - scale * 6**0.5 / 128 * g[k]
        torch.testing.assert_close(z[k], right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fraction", [0.3, 0.8])
def test_proposition_2_fixed_anchor_converges_linearly_to_eq_11(fraction: float) -> None:
    sampler = linear(num_steps=1, spread=0.8)
    target = torch.linspace(-1, 1, 6, dtype=torch.float64)
    task = problem(sampler, Distance(target), loss_scale=1.0)
    identity = torch.eye(6, dtype=torch.float64)
    jacobian = identity + sampler.matrix
    curvature = 2 / 6
    # The map z -> z_1 - s J (curvature (z - target)) has Lipschitz constant s curvature norm(J).
    s = fraction / (curvature * torch.linalg.matrix_norm(jacobian, 2).item())
    reference = task.z0 @ jacobian
    exact = torch.linalg.solve(identity + s * curvature * jacobian, (reference + s * curvature * target @ jacobian).T).T

    states = run(task, gf.Anchored(scale=s * 128 / 6**0.5, anchor="fixed"), 200)
    errors = torch.stack([(state.rollout.states[-1] - exact).norm(dim=1) for state in states])
    early = errors[:12]
    assert bool((early[1:] <= early[:-1] * fraction * (1 + 1e-9)).all()), "each iteration gains the predicted factor"
    rate = (errors[14] / errors[12]).max().sqrt().item()
    assert fraction * 0.9 < rate <= fraction * (1 + 1e-9), "the bound is attained, along the leading eigenvector"
    torch.testing.assert_close(states[-1].rollout.states[-1], exact, rtol=1e-10, atol=1e-10)


def test_fixed_anchor_diverges_beyond_the_bound() -> None:
    sampler = linear(num_steps=1, spread=0.8)
    task = problem(sampler, Distance(torch.zeros(6, dtype=torch.float64)), loss_scale=1.0)
    norm = torch.linalg.matrix_norm(torch.eye(6, dtype=torch.float64) + sampler.matrix, 2).item()
    states = run(task, gf.Anchored(scale=1.2 * 3 / norm * 128 / 6**0.5, anchor="fixed"), 150)
    assert states[-1].rollout.loss.min() > 1e3 * states[0].rollout.loss.max()
