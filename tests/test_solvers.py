"""What every solver owes, and each one's own update."""

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import guideflow as gf
from guideflow.errors import IncompatibleSolver, InvalidArgument
from problems import SOLVERS, Distance, linear, mixture, problem, run, target

every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
families = pytest.mark.parametrize("family", ["ddim", "ancestral", "flow"])


def without_scale(solver: Any) -> Any:
    if isinstance(solver, gf.Wrapper):
        return replace(solver, solver=without_scale(solver.solver))
    return replace(solver, scale=0.0)


@every_solver
@families
def test_batch_equals_single_solves(solver: Any, family: str) -> None:
    sampler = mixture(family=family)
    loss = Distance(target(sampler))
    options: dict[str, Any] = {"solver": solver, "max_iterations": 6, "keep": "last"}
    prompts, seeds = ["red", "", "blue disc"], [4, 5, 6]
    batch = gf.solve(sampler, loss, prompt=prompts, seed=seeds, **options)
    for i in range(3):
        single = gf.solve(sampler, loss, prompt=prompts[i], seed=seeds[i], **options)
        torch.testing.assert_close(batch.images[i : i + 1], single.images, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(batch.history["loss"][:, i], single.history["loss"][:, 0], rtol=1e-6, atol=0)
    assert (batch.images - batch.unguided).abs().max() > 1e-4


@every_solver
@families
def test_scale_zero_is_the_unguided_image_bit_for_bit(solver: Any, family: str) -> None:
    off = without_scale(solver)
    if isinstance(off, gf.NoiseDescent):
        off = replace(off, chi=0.0)
    task = problem(mixture(family=family, dtype="float32", deviation=0.1), seeds=(1, 2))
    first, *_, last = run(task, off, 3)
    assert torch.equal(last.rollout.images, first.rollout.images)
    assert last.iteration == 3
    moved = run(task, solver, 3)[-1]
    assert not torch.equal(moved.rollout.images, first.rollout.images)


@every_solver
def test_init_is_the_plain_sampler(solver: Any) -> None:
    sampler = mixture(family="ancestral")
    task = problem(sampler)
    z = sampler.prepare(task.noise.initial)
    for k in range(3):
        z = sampler.step(k, z, task.condition, task.noise.steps[k])
    assert torch.equal(solver.init(task).rollout.images, sampler.decode(z))


@every_solver
def test_one_rollout_per_iteration(solver: Any) -> None:
    task = problem(linear(num_steps=3))
    counts = [state.rollout.evaluations for state in run(task, solver, 5)]
    assert counts == [3, *[6 if isinstance(solver, gf.Unanchored) else 3] * 5]


@every_solver
def test_step_is_pure_and_states_are_immutable(solver: Any) -> None:
    task = problem(mixture())
    first = run(task, solver, 2)[-1]
    before = {"z0": first.z0.clone(), "controls": first.controls.clone(), "loss": first.rollout.loss.clone()}
    one, two = solver.step(task, first), solver.step(task, first)
    assert torch.equal(one.rollout.images, two.rollout.images) and torch.equal(one.controls, two.controls)
    assert torch.equal(first.z0, before["z0"]) and torch.equal(first.controls, before["controls"])
    assert torch.equal(first.rollout.loss, before["loss"]) and one.iteration == first.iteration + 1
    with pytest.raises(FrozenInstanceError):
        first.iteration = 5


@every_solver
def test_state_carries_the_rollout_of_its_own_controls(solver: Any) -> None:
    task = problem(mixture(family="ancestral"))
    state = run(task, solver, 3)[-1]
    again = task.rollout(state.z0, state.controls)
    torch.testing.assert_close(again.images, state.rollout.images, rtol=0, atol=0)
    torch.testing.assert_close(again.gradients, state.rollout.gradients, rtol=0, atol=0)


@every_solver
def test_frozen_hyperparameters_compare_and_iteration_can_go_on(solver: Any) -> None:
    assert solver == replace(solver)
    task = problem(mixture())
    states = run(task, solver, 4)
    for state in gf.iterate(task, solver, states[2]):
        if state.iteration == 4:
            break
    assert torch.equal(state.rollout.images, states[4].rollout.images)


@pytest.mark.parametrize("size", [4, 16])
def test_scale_is_relative_to_the_size_of_the_latent(size: int) -> None:
    task = problem(mixture(size=size), loss_scale=1e7)
    for solver in (gf.Anchored(scale=2.0), gf.FlowGrad(scale=2.0)):
        controls = run(task, solver, 1)[-1].controls.flatten(2)
        factors = torch.tensor(task.sampler.schedule.gain if isinstance(solver, gf.Anchored) else (1.0,) * 3)
        wanted = 2.0 * (3 * size**2) ** 0.5 / 128 * factors.double()[:, None].expand(3, 2)
        torch.testing.assert_close(controls.norm(dim=2), wanted)


@pytest.mark.slow
def test_flowgrad_reaches_the_optimum_and_decay_holds_it_back() -> None:
    task = problem(linear())
    free = run(task, gf.FlowGrad(scale=0.5), 300)[-1].rollout.loss
    held = run(task, gf.FlowGrad(scale=0.5, decay=0.2), 300)[-1].rollout.loss
    start = run(task, gf.FlowGrad(), 0)[-1].rollout.loss
    assert bool((free < 1e-3).all()) and bool((held > 10 * free).all()) and bool((held < start).all())


def test_flowgrad_follows_its_equation() -> None:
    task = problem(linear(), loss_scale=3.0)
    first, second, third = run(task, gf.FlowGrad(scale=5.0, decay=0.25), 2)
    s = 5.0 * 6**0.5 / 128
    for old, new in ((first, second), (second, third)):
        g = old.rollout.gradients[1:]
        expected = 0.75 * old.controls - s * g / g.norm(dim=2, keepdim=True).clamp(min=1)
        torch.testing.assert_close(new.controls, expected)


def test_flowgrad_moves_the_noise_on_its_shell_if_asked_to() -> None:
    task = problem(linear(), loss_scale=3.0)
    first, second, third = run(task, gf.FlowGrad(scale=5.0, decay=0.25, noise=0.5), 2)
    s = 5.0 * 6**0.5 / 128
    for old, new in ((first, second), (second, third)):
        g = old.rollout.gradients[0]
        wanted = old.z0 - 0.5 * (s * g / g.norm(dim=1, keepdim=True).clamp(min=1) + 0.25 * (old.z0 - task.z0))
        wanted = wanted * task.z0.norm(dim=1, keepdim=True) / wanted.norm(dim=1, keepdim=True)
        torch.testing.assert_close(new.z0, wanted)
    assert bool((third.z0 != first.z0).any())
    assert torch.equal(run(task, gf.FlowGrad(scale=5.0, decay=0.25), 2)[-1].z0, task.z0)


def test_auto_moves_the_noise_of_samplers_of_one_step_only() -> None:
    for num_steps in (1, 3):
        task = problem(linear(num_steps=num_steps))
        state = run(task, gf.Auto(), 3)[-1]
        assert bool((state.z0 != task.z0).any()) == (num_steps == 1)


def test_noise_descent_is_torch_sgd_on_the_regularised_loss() -> None:
    sampler = linear()
    task = problem(sampler)
    states = run(task, gf.NoiseDescent(lr=0.3, momentum=0.8, l2=0.5), 8)
    z0 = task.z0.clone().requires_grad_()
    optimiser = torch.optim.SGD([z0], lr=0.3, momentum=0.8)
    weight = 100 * 6**0.5 / 128
    for state in states[1:]:
        z = z0
        for k in range(3):
            z = sampler.step(k, z, task.condition)
        loss = weight * task.loss(sampler.decode(z)).sum() + 0.25 * (z0 - task.z0).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        torch.testing.assert_close(state.z0, z0.detach(), rtol=1e-10, atol=1e-12)
    assert not states[-1].controls.any()


def test_unit_gradient_makes_every_image_move_equally_far() -> None:
    task = problem(linear(), seeds=(0, 1, 2))
    state = run(task, gf.NoiseDescent(lr=1.0, unit_gradient=True), 1)[-1]
    shift = (state.z0 - task.z0).norm(dim=1)
    torch.testing.assert_close(shift, torch.full_like(shift, 6**0.5 / 128))


@pytest.mark.slow
def test_chi_regulariser_pulls_each_norm_to_its_mode() -> None:
    sampler = linear()
    sampler.schedule = replace(sampler.schedule, init_scale=3.0)
    task = problem(sampler, seeds=(0, 1, 2))
    state = run(task, gf.NoiseDescent(scale=0.0, l2=0.0, chi=1.0, lr=0.5), 500)[-1]
    torch.testing.assert_close(state.z0.norm(dim=1), torch.full((3,), 3 * 5**0.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: gf.Anchored(scale=-1.0), "scale=-1"),
        (lambda: gf.Anchored(scale=float("nan")), "scale=nan"),
        (lambda: gf.Unanchored(scale=float("inf")), "scale=inf"),
        (lambda: gf.FlowGrad(decay=1.0), "decay=1.0"),
        (lambda: gf.NoiseDescent(momentum=1.0), "momentum"),
        (lambda: gf.NoiseDescent(l2=-0.1), "l2"),
    ],
)
def test_hyperparameters_out_of_range_are_named(make: Any, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        make()


class NotAffine(gf.Sampler):
    """A sampler that hides its network."""

    num_steps, latent_shape, image_size = 1, (4,), (1, 4)
    device, dtype = torch.device("cpu"), torch.float64

    def condition(self, prompts: object, negative_prompts: object = None) -> None:
        return None

    def step(self, k: int, z: Tensor, condition: None, noise: Tensor | None = None) -> Tensor:
        return z + 0.1 * z.tanh()

    def decode(self, z: Tensor) -> Tensor:
        return z


def test_unanchored_needs_an_affine_sampler_and_says_so() -> None:
    loss = Distance(torch.zeros(4, dtype=torch.float64))
    with pytest.raises(IncompatibleSolver, match=r"Unanchored needs .*AffineSampler.*NotAffine.*Anchored"):
        gf.solve(NotAffine(), loss, solver=gf.Unanchored())
    with pytest.raises(IncompatibleSolver, match="NotAffine"):
        next(gf.iterate(problem(NotAffine(), loss), gf.Unanchored()))


@pytest.mark.parametrize("solver", ["anchored", "anchored-fixed", "noise-descent", "flowgrad"])
def test_other_solvers_work_with_any_sampler(solver: str) -> None:
    losses = [s.rollout.loss for s in run(problem(NotAffine(), Distance(torch.zeros(4).double())), SOLVERS[solver], 10)]
    assert bool((losses[-1] < losses[0]).all())


def test_unanchored_sweeps_with_the_network_at_the_end_of_each_window() -> None:
    sampler = mixture(family="ancestral")
    task = problem(sampler, loss_scale=3.0)
    row = sampler.schedule
    first, second, third = run(task, gf.Unanchored(scale=5.0), 2)
    s = 5.0 * (3 * 6**2) ** 0.5 / 128
    for old, new in ((first, second), (second, third)):
        z, g = [task.z0], old.rollout.gradients
        for k in range(3):
            f = sampler.predict(old.rollout.states[k + 1], row[k]._replace(time=row.end_times[k]), task.condition)
            noise = 0 if task.noise.steps[k] is None else row.noise[k] * task.noise.steps[k]
            norms = g[k + 1].flatten(1).norm(dim=1).clamp(min=1).view(-1, 1, 1, 1)
            z.append(row.state[k] * z[k] + row.output[k] * f + noise - s * g[k + 1] / norms)
        torch.testing.assert_close(new.rollout.states, torch.stack(z), rtol=1e-10, atol=1e-10)
