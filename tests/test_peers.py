"""The solvers of other papers: each one's rule in closed form, and what they owe as solvers."""

import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import guideflow as gf
from guideflow.errors import IncompatibleSolver, InvalidArgument
from guideflow.sampler import alpha_bar
from guideflow.solvers import Outlook, draw, look
from guideflow.solvers.dno import log_probability
from guideflow.testing import check_solver
from guideflow_diffusers.lcm import lcm_schedule
from problems import Distance, linear, mixture, problem, run, target
from test_solvers import NotAffine

PEERS: dict[str, Any] = {
    "best-of": gf.solvers.BestOf(draws=1, radius=0.5),
    "sweep": gf.solvers.Sweep(moves=2),
    "reno": gf.solvers.ReNO(),
    "dno": gf.solvers.DNO(),
    "flowchef": gf.solvers.FlowChef(),
    "mpgd": gf.solvers.MPGD(),
    "tfg": gf.solvers.TFG(repeats=2, clean_moves=2),
    "universal": gf.solvers.Universal(),
}
PASSES = {name: PEERS[name] for name in ("flowchef", "mpgd", "tfg", "universal")}
families = pytest.mark.parametrize("family", ["ddim", "ancestral", "flow"])


@pytest.mark.parametrize("solver", PEERS.values(), ids=PEERS)
def test_it_keeps_what_solvers_owe(solver: gf.Solver) -> None:
    check_solver(lambda: solver)
    assert gf.load_solver(solver.name) == type(solver)()


@pytest.mark.parametrize("solver", PEERS.values(), ids=PEERS)
def test_batches_are_single_solves_and_states_have_their_rollouts(solver: gf.Solver) -> None:
    sampler = mixture(family="ancestral")
    prompts, seeds = ["red", "blue disc"], [4, 5]
    options: dict[str, Any] = {"solver": solver, "max_iterations": 3, "keep": "last"}
    batch = gf.solve(sampler, Distance(target(sampler)), prompt=prompts, seed=seeds, **options)
    single = gf.solve(sampler, Distance(target(sampler)), prompt=prompts[1], seed=5, **options)
    torch.testing.assert_close(batch.images[1:], single.images, rtol=1e-6, atol=1e-9)
    task = problem(sampler)
    state = run(task, solver, 2)[-1]
    again = task.rollout(state.z0, state.controls)
    torch.testing.assert_close(again.images, state.rollout.images, rtol=0, atol=1e-12)
    torch.testing.assert_close(again.states, state.rollout.states, rtol=0, atol=1e-12)


def test_new_noise_depends_on_the_image_and_the_key_alone() -> None:
    task, alone = problem(mixture(), seeds=(0, 1)), problem(mixture(dtype="float32"), seeds=(1,))
    torch.testing.assert_close(draw(task, 3, 1)[1:], draw(alone, 3, 1).double(), rtol=0, atol=0)
    found = torch.cat([draw(task, *key) for key in [(3, 1), (1, 3), (31,), (3,)]])
    assert len({tuple(row.flatten().tolist()) for row in found}) == 8
    many = torch.stack([draw(task, i) for i in range(40)])
    assert abs(many.mean()) < 0.05 and abs(many.std() - 1) < 0.03


def test_best_of_is_the_best_of_all_its_draws() -> None:
    task = problem(linear(), seeds=(0, 1, 2))
    states = run(task, gf.solvers.BestOf(draws=2), 5)
    noises = [task.noise.initial, *(draw(task, i, j) for i in range(5) for j in range(2))]
    losses = torch.stack([task.rollout(one, states[0].controls, gradients=False).loss for one in noises])
    torch.testing.assert_close(states[-1].rollout.loss, losses.amin(0), rtol=0, atol=0)
    torch.testing.assert_close(states[-1].z0, torch.stack(noises)[losses.argmin(0), range(3)], rtol=0, atol=0)
    assert [state.rollout.evaluations for state in states] == [3, *[6] * 5]


def test_a_walk_stays_on_the_shell_of_noise_and_goes_on_from_the_best() -> None:
    task = problem(mixture(size=12))
    first, *_, last = run(task, gf.solvers.BestOf(radius=0.3), 10)
    assert bool((last.rollout.loss < first.rollout.loss).all())
    norm = last.z0.flatten(1).norm(dim=1) / (3 * 12**2) ** 0.5
    torch.testing.assert_close(norm, torch.ones_like(norm), rtol=0, atol=0.2)


def test_a_sweep_moves_window_by_window_by_the_gradient_of_the_whole_chain() -> None:
    task = problem(linear(), loss_scale=3.0)
    states = run(task, gf.solvers.Sweep(scale=0.5, moves=2, start=4.0, end=1.0, clip=0.5), 6)
    first = states[0].rollout.gradients.flatten(2).norm(dim=2)
    for i, (old, new) in enumerate(pairwise(states[:5])):
        k, f = i // 2, (4.0, 1.0)[i % 2]
        g = task.rollout(old.z0, old.controls).gradients[k + 1]
        bound = torch.maximum(g.norm(dim=1), 0.5 * first[k + 1])
        expected = torch.zeros_like(old.controls)
        expected[k] = -f * 0.5 * 6**0.5 / 128 * g / bound[:, None]
        torch.testing.assert_close(new.controls - old.controls, expected)
        assert new.rollout.evaluations == 3 - (k + 1)
    assert torch.equal(states[5].controls, states[4].controls) and states[5].iteration == 5
    assert not states[-1].controls[2].any() and states[5].rollout.evaluations == 0
    stopped = run(task, gf.solvers.Sweep(moves=1, above=0.5), 4)[-1]
    assert stopped.controls[0].any() and not stopped.controls[1:].any()


@pytest.mark.parametrize("mode", ["windowed", "checkpointed"])
def test_gradient_modes_change_no_number(mode: str) -> None:
    for solver in (gf.solvers.Sweep(moves=1), gf.solvers.TFG(), gf.solvers.ReNO()):
        full, other = (run(problem(mixture(), gradient_mode=one), solver, 2)[-1] for one in ("full", mode))
        torch.testing.assert_close(full.controls, other.controls)
        assert full.rollout.evaluations == other.rollout.evaluations


def test_a_sweep_shares_its_iterations_out_and_refuses_samplers_of_one_step() -> None:
    solution = gf.solve(linear(), Distance(target(linear())), solver="sweep", max_iterations=6)
    last = solution.history["loss"][-1]
    assert bool((last < solution.history["loss"][0]).all()) and solution.state.controls[1].any()
    with pytest.raises(IncompatibleSolver, match=r"sampler of 1 step end lower.*gf\.Auto\(\)"):
        gf.solve(linear(num_steps=1), Distance(target(linear())), solver="sweep")


def test_reno_is_torch_sgd_with_nesterov_and_clipped_gradients() -> None:
    sampler = linear()
    task = problem(sampler, seeds=(0,))
    states = run(task, gf.solvers.ReNO(), 5)
    z0 = task.z0.clone().requires_grad_()
    optimiser = torch.optim.SGD([z0], lr=5.0, momentum=0.9, nesterov=True)
    for state in states[1:]:
        z = z0
        for k in range(3):
            z = sampler.step(k, z, task.condition)
        r = z0.square().sum() / 2 - 5 * z0.norm().log()
        optimiser.zero_grad()
        (100 * task.loss(z).sum() + 0.01 * r).backward()
        torch.nn.utils.clip_grad_norm_([z0], 0.1 * 6**0.5 / 128)
        optimiser.step()
        torch.testing.assert_close(state.z0, z0.detach(), rtol=1e-6, atol=1e-9)


def test_dno_is_torch_adam_on_the_penalised_loss() -> None:
    sampler = linear()
    sampler.schedule = replace(sampler.schedule, init_scale=2.0)
    task = problem(sampler)
    n = (3 * task.noise.initial).requires_grad_()  # far from ordinary, so that the penalty counts
    task = replace(task, noise=replace(task.noise, initial=n.detach()))
    assert bool((log_probability(n.detach(), 2, 3, 0) < 0).all())
    optimiser = torch.optim.Adam([n], lr=0.05)
    for i, state in enumerate(run(task, gf.solvers.DNO(lr=0.05, gamma=40.0, block=2, permutations=3), 6)[1:]):
        z = 2 * n
        for k in range(3):
            z = sampler.step(k, z, task.condition)
        # Of n, whose gradient is twice that of z_0; Adam does not see the difference.
        objective = 100 * task.loss(z).sum() - 40 * log_probability(n, 2, 3, i).sum()
        optimiser.zero_grad()
        objective.backward()
        optimiser.step()
        torch.testing.assert_close(state.z0, 2 * n.detach(), rtol=1e-6, atol=1e-6)


def test_the_probability_of_noise_is_its_two_bounds() -> None:
    m, k, zero = 32, 4, torch.zeros(1, 128, dtype=torch.float64)
    log_2 = torch.tensor(2.0, dtype=torch.float64).log()
    flat = log_2 - m * (2**0.5 - 1 - (k / m) ** 0.5) ** 2 / 2
    torch.testing.assert_close(log_probability(zero, k, 2, 0), flat.clamp(max=0)[None])
    shift = zero + 1.5  # M_1^2 = k c^2, and c^2 1 1^T - 1 has the eigenvalue k c^2 - 1
    by_mean = log_2 - m * 1.5**2 / 2
    by_spread = log_2 - m * (((k * 1.5**2) ** 0.5) - 1 - (k / m) ** 0.5) ** 2 / 2
    torch.testing.assert_close(log_probability(shift, k, 2, 0), torch.minimum(by_mean, by_spread)[None])
    noise = torch.randn(4, 2048, generator=torch.Generator().manual_seed(0))
    assert bool((log_probability(noise, k, 3, 0) > -1.5).all())
    assert bool((log_probability(1.5 * noise, k, 3, 0) < -15).all())


@families
def test_the_clean_picture_expected_is_the_posterior_mean(family: str) -> None:
    sampler = mixture(family=family)
    task, outlook = problem(sampler), Outlook.of(sampler.schedule)
    assert outlook is not None
    z = run(task, gf.Anchored(), 0)[0].rollout.states
    for k in range(3):
        row = sampler.schedule[k]
        signal, noise = sampler.levels(row.time)
        f = sampler.predict(z[k], row, task.condition)
        exact = z[k] + noise * f if family == "flow" else (z[k] - noise * f) / signal
        end = 0 if family == "flow" else alpha_bar("float64")[0]
        if family == "ddim":  # sampling ends at the cleanest level, not beyond it
            exact = end**0.5 * exact + (1 - end) ** 0.5 * f
        sight = look(task, outlook, row, z[k], torch.zeros_like(z[k]))
        tolerance = 0.005 if family == "ancestral" else 1e-9
        torch.testing.assert_close(sight.clean, exact, rtol=tolerance, atol=tolerance)
        assert outlook.signal[k] == pytest.approx(signal, abs=1e-3) and outlook.noise[k] == pytest.approx(
            noise, abs=1e-3
        )


def test_steps_that_forget_all_noise_are_read_too_and_others_are_refused() -> None:
    outlook, schedule = Outlook.of(lcm_schedule(4)), lcm_schedule(4)
    assert outlook is not None
    for k, time in enumerate(schedule.times):
        level = alpha_bar()[int(time)]
        assert outlook.signal[k] == pytest.approx(level**0.5, abs=2e-3)
        assert -outlook.output[k] / outlook.state[k] == pytest.approx((1 - level) ** 0.5, abs=0.03)
    other = gf.Schedule((1.57, 1.3), (0.2, 0.27), (-0.3, -0.96), (0.5, 0.0))
    sampler = linear(num_steps=2)
    sampler.schedule = other
    for solver in PASSES.values():
        with pytest.raises(IncompatibleSolver, match=f"{type(solver).__name__}.*schedule of ToyLinear"):
            gf.solve(sampler, Distance(target(sampler)), solver=solver)
        with pytest.raises(IncompatibleSolver, match="NotAffine"):
            gf.solve(NotAffine(), Distance(torch.zeros(4).double()), solver=solver)


def test_the_published_loop_of_rectifid_is_anchored_guidance_with_one_gain(monkeypatch: Any) -> None:
    spec = spec_from_file_location("official", Path(__file__).parents[1] / "benchmarks" / "official.py")
    assert spec is not None and spec.loader is not None
    monkeypatch.setitem(sys.modules, "official", official := module_from_spec(spec))
    spec.loader.exec_module(official)
    task = problem(mixture(family="ancestral"))
    theirs = run(task, official.Official(lr=0.5), 6)
    ours = run(task, gf.Anchored(scale=0.5 * 128 / (3 * 6**2) ** 0.5, gain=0.95796674), 6)
    for one, other in zip(theirs, ours, strict=True):
        torch.testing.assert_close(one.rollout.states, other.rollout.states, rtol=1e-10, atol=1e-10)
    assert (ours[-1].controls - ours[0].controls).abs().max() > 1e-2


def one_pass(task: gf.Problem, state: gf.State, k: int) -> dict[str, Tensor]:
    """What a pass sees at window k of a linear flow, written out."""
    sampler: Any = task.sampler
    z = state.rollout.states[k].clone().requires_grad_()
    left = 1 - k / sampler.num_steps
    f = sampler.predict(z, sampler.schedule[k], task.condition)
    x = z + left * f + state.controls[k]
    x.retain_grad()
    (task.loss_scale * task.loss(x).sum()).backward()
    assert z.grad is not None and x.grad is not None
    return {"state": z.grad, "clean": x.grad, "skipped": x.grad, "x": x.detach()}


def clipped(g: Tensor) -> Tensor:
    return g / g.norm(dim=1, keepdim=True).clamp(min=1)


@pytest.mark.parametrize("loss_scale", [1.0, 100.0])
def test_passes_follow_their_equations_on_a_linear_flow(loss_scale: float) -> None:
    task, s = problem(linear(), loss_scale=loss_scale), 2.0 * 6**0.5 / 128
    made = {
        "flowchef": gf.solvers.FlowChef(scale=2.0),
        "mpgd": gf.solvers.MPGD(scale=2.0),
        "universal": gf.solvers.Universal(scale=2.0),
        "tfg": gf.solvers.TFG(scale=2.0, state_shift=0.3, mean_shift=0.7, smooth=0.0, clean_moves=2),
    }
    for name, solver in made.items():
        zero, one, two = run(task, solver, 2)
        for old, new in ((zero, one), (one, two)):
            for k in range(3):
                # The states on the way are the new ones, and the control at the end the old one.
                seen = one_pass(task, replace(new, controls=old.controls), k)
                signal = (k + 1) / 3
                if name == "flowchef":
                    move = -s * clipped(seen["skipped"])
                elif name == "mpgd":
                    move = -signal * s * clipped(seen["clean"])
                elif name == "universal":
                    move = -(1 / 3) * s * (1 - k / 3) * clipped(seen["state"])
                else:
                    y = (seen["x"] - 0.7 * s * clipped(seen["clean"])).requires_grad_()
                    (g,) = torch.autograd.grad(loss_scale * task.loss(y).sum(), y)
                    y = y.detach() - 0.7 * s * clipped(g)
                    move = -0.3 * s * clipped(seen["state"]) + signal * (y - seen["x"])
                torch.testing.assert_close(new.controls[k] - old.controls[k], move, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", PASSES.values(), ids=PASSES)
def test_passes_reach_the_optimum_of_one_step(solver: gf.Solver) -> None:
    task = problem(linear(num_steps=1), loss_scale=10.0)
    solver = replace(solver, smooth=0.0) if isinstance(solver, gf.solvers.TFG) else solver
    losses = [state.rollout.loss for state in run(task, replace(solver, scale=20.0), 40)]
    assert bool((losses[-1] < 1e-4 * losses[0]).all())


def test_smoothing_averages_over_draws_and_recurrence_keeps_the_level_of_noise() -> None:
    task = problem(mixture(family="flow"))
    outlook = Outlook.of(task.sampler.schedule)
    assert outlook is not None
    row, z = task.sampler.schedule[1], task.z0
    around = [draw(task, j) for j in range(3)]
    each = [look(task, outlook, row, z, 0 * z, through=True, around=[one]) for one in around]
    mean = look(task, outlook, row, z, 0 * z, through=True, around=around)
    torch.testing.assert_close(mean.by_clean, torch.stack([one.by_clean for one in each]).mean(0))
    torch.testing.assert_close(mean.by_state, torch.stack([one.by_state for one in each]).mean(0))
    for family in ("ddim", "flow"):
        task = problem(mixture(family=family, size=24), seeds=(0,), loss_scale=1e-9)
        plain, again = (run(task, gf.solvers.Universal(scale=1e-9, repeats=n), 1)[-1].rollout for n in (1, 2))
        assert (plain.states[1] - again.states[1]).abs().max() > 0.1
        torch.testing.assert_close(again.states[1].std(), plain.states[1].std(), rtol=0.15, atol=0)
        assert (plain.evaluations, again.evaluations) == (3, 5)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: gf.solvers.BestOf(draws=0), "draws=0"),
        (lambda: gf.solvers.BestOf(radius=0.0), "radius=0"),
        (lambda: gf.solvers.BestOf(radius=1.5), "radius=1.5"),
        (lambda: gf.solvers.Sweep(moves=0), "moves=0"),
        (lambda: gf.solvers.Sweep(above=1.0), "above=1"),
        (lambda: gf.solvers.Sweep(clip=0.0), "clip=0"),
        (lambda: gf.solvers.ReNO(clip=0.0), "clip=0"),
        (lambda: gf.solvers.ReNO(momentum=1.0), "momentum=1"),
        (lambda: gf.solvers.DNO(block=0), "block=0"),
        (lambda: gf.solvers.DNO(lr=-1.0), "lr=-1"),
        (lambda: gf.solvers.FlowChef(scale=float("nan")), "scale=nan"),
        (lambda: gf.solvers.MPGD(scale=-1.0), "scale=-1"),
        (lambda: gf.solvers.TFG(draws=0), "draws=0"),
        (lambda: gf.solvers.TFG(smooth=-0.1), "smooth=-0.1"),
        (lambda: gf.solvers.Universal(repeats=0), "repeats=0"),
    ],
)
def test_settings_out_of_range_are_named(make: Any, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        make()
