"""The rollout: its gradients, its bookkeeping and the independence of images."""

from typing import Any

import pytest
import torch
from torch import Tensor

import guideflow as gf
from guideflow.errors import InvalidArgument, InvalidLoss
from problems import Distance, linear, mixture, problem, target


def controls_for(task: gf.Problem) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (task.sampler.num_steps, *task.noise.initial.shape)
    return 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("family", ["ddim", "ancestral", "flow"])
def test_gradients_agree_with_finite_differences(family: str) -> None:
    task = problem(mixture(family=family, num_steps=3, size=3))
    controls = controls_for(task)
    rollout = task.rollout(task.z0, controls)
    assert rollout.gradients is not None
    generator = torch.Generator().manual_seed(2)
    h = 1e-5
    for k in range(4):
        direction = torch.randn(task.z0.shape, generator=generator, dtype=torch.float64)

        def loss_at(step: float, k: int = k, direction: Tensor = direction) -> Tensor:
            # Moving u_k is moving z_k, because the gradient passes the sum unchanged.
            moved = controls.clone()
            if k:
                moved[k - 1] += step * direction
            z0 = task.z0 + (0 if k else step) * direction
            return task.rollout(z0, moved, gradients=False).loss

        numeric = 100 * (loss_at(h) - loss_at(-h)) / (2 * h)
        exact = (rollout.gradients[k] * direction).flatten(1).sum(1)
        torch.testing.assert_close(exact, numeric, rtol=1e-6, atol=1e-8)


def test_states_end_points_and_images_belong_together() -> None:
    sampler = linear(num_steps=4)
    task = problem(sampler)
    controls = controls_for(task)
    rollout = task.rollout(task.z0, controls)
    torch.testing.assert_close(rollout.states[1:], rollout.end_points + controls, rtol=0, atol=0)
    expected = rollout.states[:-1] + (rollout.states[:-1] @ sampler.matrix) / 4
    torch.testing.assert_close(rollout.end_points, expected)
    torch.testing.assert_close(rollout.images, rollout.states[-1])
    # Closed form of all gradients of a linear flow.
    jacobian = torch.eye(6, dtype=torch.float64) + sampler.matrix / 4
    g = 100 * 2 / 6 * (rollout.images - target(sampler))
    for k in range(4, -1, -1):
        torch.testing.assert_close(rollout.gradients[k], g)
        g = g @ jacobian


def test_everything_is_detached_and_evaluations_are_counted() -> None:
    task = problem(linear(num_steps=3))
    rollout = task.rollout(task.z0, controls_for(task))
    tensors = [rollout.states, rollout.end_points, rollout.images, rollout.loss, rollout.objective, rollout.gradients]
    assert not any(t is not None and t.requires_grad for t in [*tensors, *rollout.terms.values()])
    assert (rollout.evaluations, rollout.rebuilt) == (3, 0)
    rollout = task.rollout(task.z0, controls_for(task), gradients=False)
    assert rollout.gradients is None and (rollout.evaluations, rollout.rebuilt) == (3, 0)


def test_rollout_works_where_gradients_are_switched_off() -> None:
    task = problem(linear())
    wanted = task.rollout(task.z0, controls_for(task)).gradients
    with torch.no_grad():
        found = task.rollout(task.z0, controls_for(task)).gradients
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_controls_may_follow_the_end_points() -> None:
    task = problem(mixture(family="ancestral"))
    states = torch.randn(3, *task.z0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    rollout = task.rollout(task.z0, lambda k, end_point: states[k] - end_point)
    torch.testing.assert_close(rollout.states[1:], states)
    again = task.rollout(task.z0, states - rollout.end_points)
    torch.testing.assert_close(again.states, rollout.states, rtol=0, atol=0)
    torch.testing.assert_close(again.gradients, rollout.gradients, rtol=0, atol=0)


def test_nan_in_one_image_leaves_the_gradients_of_the_others_alone() -> None:
    sampler = mixture()
    spoilt = problem(sampler, lambda x: Distance(target(sampler))(x) * torch.tensor([1.0, torch.nan, 1.0]), (0, 1, 2))
    clean = problem(sampler, None, (0, 1, 2))
    controls = controls_for(clean)
    bad, good = spoilt.rollout(spoilt.z0, controls).gradients, clean.rollout(clean.z0, controls).gradients
    assert bad is not None and good is not None
    assert bool(bad[:, 1].flatten(1).isnan().any(1).all())
    torch.testing.assert_close(bad[:, [0, 2]], good[:, [0, 2]], rtol=0, atol=0)


def test_weights_that_ask_for_gradients_get_none() -> None:
    sampler = linear()
    sampler.matrix.requires_grad_()
    task = problem(sampler)
    task.rollout(task.z0, controls_for(task))
    assert sampler.matrix.grad is None


def test_noise_of_an_image_depends_on_its_seed_only() -> None:
    sampler = mixture(family="ancestral")
    both, one = gf.draw_noise(sampler, [3, 8]), gf.draw_noise(sampler, [8])
    torch.testing.assert_close(both.initial[1:], one.initial, rtol=0, atol=0)
    assert [noise is None for noise in both.steps] == [False, False, True]
    torch.testing.assert_close(both.steps[1][1:], one.steps[1], rtol=0, atol=0)
    assert not torch.equal(both.steps[0], both.steps[1])
    single = gf.draw_noise(mixture(family="ancestral", dtype="float32"), [8])
    torch.testing.assert_close(single.initial.double(), one.initial, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("loss", "cure"),
    [
        (lambda x: x.square().mean(), r"\.flatten\(1\)\.mean\(1\)"),
        (lambda x: x.square(), "one number|Reduce"),
        (lambda x: x.square().flatten(1).mean(1)[:1], r"Expected \(2,\)"),
        (lambda x: 0.5, "float"),
        (lambda x: x.detach().square().flatten(1).mean(1), "no gradient.*detach"),
        (lambda x: (x > 0).flatten(1).sum(1), "floating-point"),
        (lambda x: torch.ones(len(x), requires_grad=True) * 2, "no gradient"),
    ],
)
def test_loss_that_breaks_its_contract_is_refused_with_the_cure(loss: Any, cure: str) -> None:
    task = problem(linear(), loss)
    with pytest.raises(InvalidLoss, match=cure):
        task.rollout(task.z0, controls_for(task))


def test_problem_refuses_what_is_no_problem() -> None:
    with pytest.raises(InvalidArgument, match="loss_scale"):
        problem(linear(), loss_scale=0.0)
