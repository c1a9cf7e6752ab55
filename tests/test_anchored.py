"""Anchored guidance follows Algorithm 1 of the paper: a literal transcription of Eq. (15) and Eq. (16) agrees."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import guideflow as gf
from problems import linear, mixture, problem, run


def clipped(gradient: Tensor) -> Tensor:
    """Scale each image's gradient to norm 1 at most."""
    return torch.stack([row / max(float(row.norm()), 1.0) for row in gradient])


class Paper:
    """The quantities of section 3.3, by their names: reference z, end points e and target trajectory z_hat."""

    def __init__(self, problem: gf.Problem) -> None:
        self.problem, self.K = problem, problem.sampler.num_steps
        z = [problem.z0]
        for k in range(1, self.K + 1):
            z.append(self.segment(k, z[k - 1]))
        self.z, self.e, self.z_hat = z, list(z), list(z)

    def segment(self, k: int, z: Tensor) -> Tensor:
        """Follow the flow through window k, from its start to its end point (Eq. (13))."""
        return self.problem.sampler.step(k - 1, z, self.problem.condition, self.problem.noise.steps[k - 1])

    def classifier_gradient(self, z: Tensor) -> Tensor:
        """Return the gradient of log p(c | z) = - loss_scale x loss."""
        z = z.clone().requires_grad_()
        log_p = -self.problem.loss_scale * self.problem.loss(self.problem.sampler.decode(z)).sum()
        return torch.autograd.grad(log_p, z)[0]

    def update_reference(self, factors: tuple[float, ...]) -> None:
        """Eq. (15); the gain weights the predicted update, as in the official code."""
        z, e = [self.problem.z0], [self.problem.z0]
        for k in range(1, self.K + 1):
            e.append(self.segment(k, z[k - 1]))
            current_offset = e[k] - self.e[k]
            predicted_update = self.z_hat[k] - self.e[k]
            z.append(self.z[k] + current_offset + factors[k - 1] * predicted_update)
        self.z, self.e = z, e

    def update_target(self, s: float, guidance: Tensor, clip: bool) -> None:
        """Eq. (16): one Jacobian per segment, joined by the straight-through estimator."""
        signal = guidance
        for k in range(self.K, 0, -1):
            start = self.z[k - 1].clone().requires_grad_()
            (signal,) = torch.autograd.grad(self.segment(k, start), start, signal)
            self.z_hat[k] = self.e[k] + s * (clipped(signal) if clip else signal)


FACTORS = {1: [(1.0,), (0.57,)], 4: [(1.0,) * 4, (0.958, 0.892, 0.767, 0.569)], 8: [(0.958,) * 8]}


@pytest.mark.parametrize(("num_steps", "factors"), [(k, factors) for k in FACTORS for factors in FACTORS[k]])
@pytest.mark.parametrize("loss_scale", [0.2, 100.0])
@pytest.mark.parametrize("family", ["ddim", "ancestral"])
def test_control_form_is_algorithm_1(
    num_steps: int, factors: tuple[float, ...], loss_scale: float, family: str
) -> None:
    # As in the official code, the classifier looks at the predicted end of the target trajectory, z_K after Eq. (15).
    sampler = mixture(num_steps=num_steps, family=family)
    sampler.schedule = replace(sampler.schedule, gain=factors)
    task = problem(sampler, loss_scale=loss_scale)
    scale = 20.0 if loss_scale < 1 else 1.0  # below and above the clipping of gradients
    states = run(task, gf.Anchored(scale=scale), 20)
    paper = Paper(task)
    for state in states:
        paper.update_reference(factors)
        ours = state.rollout
        torch.testing.assert_close(torch.stack(paper.z), ours.states, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(torch.stack(paper.e[1:]), ours.end_points, rtol=1e-10, atol=1e-10)
        paper.update_target(scale * sampler.means[0].numel() ** 0.5 / 128, paper.classifier_gradient(paper.z[-1]), True)
    moved = (states[-1].rollout.images - states[0].rollout.images).abs().max()
    assert moved > 1e-3, "the comparison would be empty if nothing moved"


def test_one_window_with_the_classifier_at_the_old_target_is_the_fixed_anchor() -> None:
    # Read to the letter, Eq. (16) evaluates the classifier at the target of the iteration before. The target then never
    # sees the accumulated updates, and for one window the iteration is Eq. (11).
    sampler = mixture(num_steps=1)
    task = problem(sampler, loss_scale=1.0)
    factors, scale = sampler.schedule.gain, 30.0
    states = run(task, gf.Anchored(scale=scale, anchor="fixed"), 10)
    paper = Paper(task)
    for state in states:
        torch.testing.assert_close(paper.z_hat[-1], state.rollout.states[-1], rtol=1e-10, atol=1e-10)
        guidance = paper.classifier_gradient(paper.z_hat[-1])
        paper.update_reference(factors)
        s = factors[0] * scale * sampler.means[0].numel() ** 0.5 / 128
        paper.update_target(s, guidance, clip=False)
        paper.z[-1] = paper.e[-1]


def test_the_fixed_anchor_of_several_windows_is_eq_14() -> None:
    # Where the iteration rests, every window ends at its own end point, moved by its gradient: Eq. (11) in each window.
    sampler = mixture(num_steps=3)
    task = problem(sampler, loss_scale=1.0)
    scale = 1.0
    state = run(task, gf.Anchored(scale=scale, anchor="fixed"), 100)[-1]
    z, e, s = state.rollout.states, state.rollout.end_points, scale * sampler.means[0].numel() ** 0.5 / 128
    for k, c in enumerate(sampler.schedule.gain):
        torch.testing.assert_close(z[k + 1], e[k] - s * c * state.rollout.gradients[k], rtol=1e-10, atol=1e-10)
    assert (z[-1] - e[-1]).abs().max() > 1e-6, "the comparison would be empty if nothing moved"


def test_gradient_is_clipped_per_image_and_window() -> None:
    sampler = linear(num_steps=2)
    task = problem(sampler, loss_scale=1e6, seeds=(0, 1, 2))
    state = run(task, gf.Anchored(scale=128 / 6**0.5), 1)[1]
    norms = state.controls.norm(dim=2)
    torch.testing.assert_close(norms, torch.ones_like(norms))
