"""Wrappers of control rules: each one's equation, their composition, and what is refused."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

import guideflow as gf
from guideflow.errors import InvalidArgument
from guideflow.testing import check_solver
from problems import WRAPPERS, Distance, linear, mixture, problem, run, target

every_wrapper = pytest.mark.parametrize("solver", WRAPPERS.values(), ids=WRAPPERS.keys())


def change(old: gf.State, new: gf.State) -> torch.Tensor:
    return new.controls - old.controls


@every_wrapper
def test_wrappers_keep_what_solvers_owe(solver: Any) -> None:
    check_solver(lambda: solver)


def test_annealed_scales_the_moves_along_a_line_and_then_keeps_the_end() -> None:
    task = problem(linear(), loss_scale=1e6)  # every gradient is clipped, so every move of the rule is as long
    states = run(task, gf.Annealed(gf.FlowGrad(), start=5.0, end=1.0, iterations=3), 5)
    lengths = [change(*pair).flatten(2).norm(dim=2) * 128 / 6**0.5 for pair in pairwise(states)]
    for length, factor in zip(lengths, (5.0, 3.0, 1.0, 1.0, 1.0), strict=True):
        torch.testing.assert_close(length, torch.full_like(length, factor))


def test_annealed_over_one_move_has_the_factor_of_the_start() -> None:
    task = problem(linear(), loss_scale=1e6)
    plain, annealed = gf.FlowGrad(scale=4.0), gf.Annealed(gf.FlowGrad(), start=4.0, end=0.0, iterations=1)
    assert torch.equal(run(task, annealed, 1)[-1].controls, run(task, plain, 1)[-1].controls)


def test_momentum_is_nesterovs_method() -> None:
    task = problem(linear(), loss_scale=0.01)  # no gradient is clipped: plain gradient descent
    states = run(task, gf.Momentum(gf.FlowGrad(scale=3.0), beta=0.8), 6)
    losses = torch.stack([state.rollout.loss for state in states])
    assert bool((losses.diff(dim=0) < 0).all())  # so it never restarts
    s = 3.0 * 6**0.5 / 128
    x = y = states[0].controls
    for old, new in pairwise(states):
        torch.testing.assert_close(old.controls, y)
        ahead = y - s * old.rollout.gradients[1:]
        x, y = ahead, ahead + 0.8 * (ahead - x)
        torch.testing.assert_close(new.controls, y)


def test_momentum_starts_again_where_the_loss_rose_and_only_there() -> None:
    task = problem(linear(), seeds=(0, 1))
    solver = gf.Momentum(gf.FlowGrad(scale=2.0), beta=0.9)
    state = run(task, solver, 3)[-1]
    low = state.rollout.loss - torch.tensor([1.0, -1.0])  # what it was: the first has risen since
    state = replace(state, memory={**state.memory, "own": {**state.memory["own"], "loss": low}})
    free = solver.step(task, state).controls - state.controls
    d = gf.FlowGrad(scale=2.0).move(task, state).change[1:]
    v = state.memory["own"]["velocity"].transpose(0, 1)[1:]
    torch.testing.assert_close(free[:, 0], (d + 0.9 * d)[:, 0])
    torch.testing.assert_close(free[:, 1], (d + 0.9 * (0.9 * v + d))[:, 1])


def test_trust_region_follows_the_ratio_of_gain_to_promise() -> None:
    task = problem(linear(), seeds=(0, 1, 2, 3))
    solver = gf.TrustRegion(gf.FlowGrad(), start=2.0, smallest=0.5, largest=4.0)
    state = run(task, solver, 1)[-1]
    gain = torch.tensor([0.2, 0.5, 0.8, -1.0], dtype=torch.float64)
    memory = {
        "factor": torch.full((4,), 3.0, dtype=torch.float64),
        "promise": torch.ones(4, dtype=torch.float64),
        "objective": state.rollout.objective + gain,
    }
    found = solver.step(task, replace(state, memory={"own": memory, "inner": {}})).memory["own"]["factor"]
    assert found.tolist() == [1.5, 3.0, 4.0, 1.5]  # 4.5 is cut off


def test_trust_region_promises_what_a_linear_loss_keeps() -> None:
    sampler = linear()

    def slope(image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1).sum(1)

    task = problem(sampler, slope)  # the flow is linear too
    states = run(task, gf.TrustRegion(gf.FlowGrad(), start=1.0, largest=2.0), 3)
    for old, new in pairwise(states):
        promise = new.memory["own"]["promise"]
        torch.testing.assert_close(old.rollout.loss - new.rollout.loss, promise)
        assert bool((promise > 0).all())
    assert states[-1].memory["own"]["factor"].tolist() == [2.0, 2.0]


def test_polyak_meets_a_linear_loss_in_one_move() -> None:
    sampler = linear()

    def height(image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1).sum(1) + 100

    task = problem(sampler, height)
    first, second = run(task, gf.Polyak(gf.FlowGrad(), share=1.0, optimum=90.0, cap=1e9), 1)
    assert bool((first.rollout.loss > 91).all())
    torch.testing.assert_close(second.rollout.loss, torch.full((2,), 90.0, dtype=torch.float64))
    half = run(task, gf.Polyak(gf.FlowGrad(), share=0.5, optimum=90.0, cap=1e9), 1)[-1].rollout.loss
    torch.testing.assert_close(half, (first.rollout.loss + 90) / 2)


def test_polyak_moves_no_farther_than_its_cap_and_not_uphill() -> None:
    task = problem(linear())
    state = run(task, gf.Polyak(gf.FlowGrad(scale=7.0), cap=2.0, optimum=-1e9), 1)[-1]
    longest = state.controls.flatten(2).norm(dim=2).amax(0) * 128 / 6**0.5
    torch.testing.assert_close(longest, torch.full((2,), 2.0, dtype=torch.float64))

    class Uphill(gf.ControlSolver):
        def move(self, problem: gf.Problem, state: gf.State) -> gf.Move:
            return gf.Move(state.rollout.gradients)

    assert not run(task, gf.Polyak(Uphill()), 1)[-1].controls.any()


def test_wrappers_compose_and_remember_side_by_side() -> None:
    solver = gf.TrustRegion(gf.Momentum(gf.Anchored(), beta=0.5))
    state = run(problem(mixture()), solver, 3)[-1]
    own, inner = state.memory["own"], state.memory["inner"]
    assert set(own) == {"factor", "promise", "objective"} and set(inner["own"]) == {"velocity", "loss"}
    assert all(len(value) == 2 for value in (own | inner["own"]).values()) and inner["inner"] == {}


def test_the_same_wrapper_twice_is_two_of_them(tmp_path: Any) -> None:
    solver = gf.Momentum(gf.Momentum(gf.FlowGrad(scale=0.5), beta=0.3), beta=0.6)
    check_solver(lambda: solver)
    task = problem(linear(), loss_scale=0.01)
    state = run(task, solver, 3)[-1]
    outer, inner = state.memory["own"]["velocity"], state.memory["inner"]["own"]["velocity"]
    assert outer.shape == inner.shape and not torch.equal(outer, inner)


@pytest.mark.parametrize("wrapper", [gf.TrustRegion(gf.FlowGrad()), gf.Polyak(gf.FlowGrad())], ids=["trust", "polyak"])
def test_values_are_compared_with_their_own_gradients(wrapper: Any) -> None:
    # Judged by a loss that is far higher than what guides: neither rule may look at it.
    sampler = mixture()
    guides = Distance(target(sampler))
    judged = guides + (1e6 * gf.as_loss(lambda x: x.square().flatten(1).mean(1), "late")).scheduled(start=50)
    alone, both = (run(problem(sampler, loss), wrapper, 4)[-1] for loss in (guides, judged))
    torch.testing.assert_close(both.controls, alone.controls, rtol=1e-12, atol=1e-12)
    assert bool((both.rollout.loss > 1e3 * both.rollout.objective).all())


@every_wrapper
def test_resumed_is_uninterrupted(solver: Any, tmp_path: Any) -> None:
    sampler = gf.load_sampler("toy-mixture", size=8)
    loss = Distance(target(sampler).float())
    options: dict[str, Any] = {"seed": [0, 1], "solver": solver, "keep": "last"}
    whole = gf.solve(sampler, loss, max_iterations=8, **options)
    gf.solve(sampler, loss, max_iterations=5, **options).save(tmp_path / "half")
    resumed = gf.resume(tmp_path / "half", max_iterations=8, loss=loss)
    assert resumed.solver == solver
    assert torch.equal(resumed.images, whole.images)
    assert torch.equal(resumed.history["loss"], whole.history["loss"])


def test_an_image_that_leaves_the_numbers_disturbs_no_other() -> None:
    sampler = mixture()

    def height(image: torch.Tensor) -> torch.Tensor:
        return image.square().flatten(1).mean(1)

    options: dict[str, Any] = {
        "seed": [0, 1],
        "solver": gf.TrustRegion(gf.Momentum(gf.FlowGrad(), beta=0.5), start=4.0),
        "max_iterations": 6,
        "keep": "last",
    }
    whole = gf.solve(sampler, height, **options)
    lowest = whole.history["loss"].amin(0)
    edge = lowest.mean()  # only one of the two goes below
    assert bool((whole.history["loss"][0] > edge).all())

    def cliff(image: torch.Tensor) -> torch.Tensor:
        loss = height(image)
        return loss / (loss >= edge)

    broken = gf.solve(sampler, cliff, **options)
    fell = int(lowest.argmin())
    assert broken.stats["shorter_steps"] > 0 and not broken.result[1 - fell].failed
    assert bool((broken.loss >= edge).all())
    assert torch.equal(broken.images[1 - fell], whole.images[1 - fell])
    assert bool(torch.isfinite(broken.images).all())


def test_a_move_of_the_controls_alone_says_how_to_be_one() -> None:
    class Controls(gf.ControlSolver):
        def move(self, problem: gf.Problem, state: gf.State) -> gf.Move:
            return gf.Move(-state.rollout.gradients[1:])

    with pytest.raises(InvalidArgument, match=r"Controls moved by \(3, 2, 6\)\. Expected \(4, 2, 6\).*of_controls"):
        run(problem(linear()), Controls(), 1)


def test_wrappers_take_objects() -> None:
    assert gf.load_solver("annealed", solver=gf.Anchored(), start=3.0) == gf.Annealed(gf.Anchored(), start=3.0)
    assert gf.load_solver("momentum") == gf.Momentum(gf.FlowGrad())


@pytest.mark.parametrize(
    ("solver", "named"),
    [(gf.NoiseDescent(), r"solver=NoiseDescent.*gf\.Momentum\("), ("flowgrad", "solver='flowgrad'")],
)
def test_what_moves_no_controls_cannot_be_wrapped(solver: Any, named: str) -> None:
    wrapper = gf.Momentum()
    object.__setattr__(wrapper, "solver", solver)  # past the type checker of the tests, which users do not have
    with pytest.raises(InvalidArgument, match=named):
        wrapper.__post_init__()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: gf.Momentum(beta=1.0), "beta=1.0"),
        (lambda: gf.Annealed(start=-1.0), "start=-1.0"),
        (lambda: gf.Annealed(iterations=0), "iterations=0"),
        (lambda: gf.Auto(iterations=0), "iterations=0"),
        (lambda: gf.Polyak(share=2.0), "share=2.0"),
        (lambda: gf.TrustRegion(start=9.0), "largest=8.0"),
    ],
)
def test_what_is_out_of_range_is_named(make: Any, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        make()
