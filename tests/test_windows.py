"""Which windows are steered, and steps that no unit of the loss changes."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import guideflow as gf
from guideflow.errors import InvalidArgument
from guideflow.testing import check_solver
from problems import Distance, linear, mixture, problem, run, smoothness, target

CLEAN = gf.Annealed(gf.Windows(gf.FlowGrad(decay=0.015, clip=0.03)), start=8.0, end=0.25)


@pytest.mark.parametrize("solver", [gf.Windows(), CLEAN, gf.FlowGrad(clip=0.1)], ids=repr)
def test_they_keep_what_solvers_owe(solver: Any) -> None:
    check_solver(lambda: solver)


@pytest.mark.parametrize(
    ("above", "upto", "steered"),
    [(0.0, 1.0, [1, 1, 1, 0]), (0.3, 1.0, [1, 1, 0, 0]), (0.0, 0.5, [0, 1, 1, 0]), (0.5, 0.5, [0, 0, 0, 0])],
)
def test_windows_are_named_by_the_noise_level_of_their_end(above: float, upto: float, steered: list[int]) -> None:
    task = problem(linear(num_steps=4))
    assert task.sampler.end_levels == pytest.approx((0.75, 0.5, 0.25, 0.0))
    state = run(task, gf.Windows(gf.Anchored(), above=above, upto=upto), 2)[-1]
    moved = state.controls.flatten(1).norm(dim=1) > 0
    assert moved.int().tolist() == steered
    assert torch.equal(state.z0, task.z0)


def test_a_sampler_of_one_step_moves_its_noise_alone() -> None:
    task = problem(linear(num_steps=1), seeds=(0, 1))
    states = run(task, gf.Windows(gf.FlowGrad(scale=4.0, noise=1.0)), 4)
    assert not states[-1].controls.any()
    assert bool((states[-1].rollout.loss < states[0].rollout.loss).all())


def test_clipping_by_the_first_gradient_is_its_formula() -> None:
    task = problem(linear(), seeds=(0, 1))
    states = run(task, gf.FlowGrad(scale=2.0, clip=0.5), 5)
    first = states[0].rollout.gradients[1:].flatten(2).norm(dim=2)
    s = 2.0 * 6**0.5 / 128
    for old, new in pairwise(states):
        g = old.rollout.gradients[1:]
        bound = torch.maximum(g.flatten(2).norm(dim=2), 0.5 * first)
        torch.testing.assert_close(new.controls - old.controls, -s * g / bound[..., None])


def kink(image: Tensor) -> Tensor:
    return (image - 0.4).abs().flatten(1).mean(1)


@pytest.mark.parametrize("make", [lambda s: Distance(target(s)), lambda s: smoothness, lambda s: kink])
def test_no_unit_of_the_loss_changes_the_pictures(make: Any) -> None:
    sampler = mixture()
    loss = gf.as_loss(make(sampler))
    pictures = [
        gf.solve(sampler, unit * loss, seed=[0, 1], solver=CLEAN, max_iterations=12, candidates=4)
        for unit in (1.0, 1e-3, 1e3)
    ]
    for other in pictures[1:]:
        assert other.chosen.tolist() == pictures[0].chosen.tolist()
        torch.testing.assert_close(other.images, pictures[0].images, rtol=0, atol=1e-7)
    assert bool((pictures[0].loss < pictures[0].history["loss"][0]).all())


def test_small_losses_do_not_stall_and_steps_settle() -> None:
    sampler = linear()
    loss = 1e-3 * gf.as_loss(Distance(target(sampler)))
    solution = gf.solve(sampler, loss, seed=[0, 1], solver=CLEAN, max_iterations=60)
    history = solution.history["loss"]
    assert bool((history[-1] < 0.3 * history[0]).all())
    assert bool(((history[-1] - history[-2]).abs() <= 0.02 * history[0]).all())


@pytest.mark.parametrize("options", [{"above": -0.1}, {"above": 1.0}, {"upto": -1.0}])
def test_bounds_out_of_range_are_refused(options: Any) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        gf.Windows(**options)
    with pytest.raises(InvalidArgument, match="clip"):
        gf.FlowGrad(clip=0.0)
