"""Schedules of losses over iterations, against closed forms."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import guideflow as gf
from guideflow import registry
from guideflow.errors import InvalidArgument, InvalidLoss
from guideflow.losses.base import evaluate
from guideflow.testing import fake_distribution
from problems import SOLVERS, Distance, linear, problem, smoothness, target
from sums import IMAGE, A, B, gradient


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, [1, 1, 1, 1, 1, 1]),
        ({"start": 2}, [0, 0, 1, 1, 1, 1]),
        ({"end": 2}, [1, 1, 0, 0, 0, 0]),
        ({"start": 1, "fade_in": 3}, [0, 0.25, 0.5, 0.75, 1, 1]),
        ({"end": 4, "fade_out": 4, "after": 0.5}, [0.9, 0.8, 0.7, 0.6, 0.5, 0.5]),
        ({"start": 1, "end": 4, "fade_in": 1, "fade_out": 1}, [0, 0.5, 1, 0.5, 0, 0]),
        ({"start": 2, "before": 3.0}, [3, 3, 1, 1, 1, 1]),
    ],
)
def test_weights_follow_the_formula(options: Any, weights: list[float]) -> None:
    loss = (2 * A).scheduled(**options)
    assert [loss.weights(i)["a"] for i in range(6)] == pytest.approx([2 * weight for weight in weights])
    assert loss.weights()["a"] == pytest.approx(2 * weights[-1])
    assert all(loss.weights(i) == loss.weights() for i in range(loss.settled, 9))
    assert loss.settled == 0 or loss.weights(loss.settled - 1) != loss.weights()


def test_schedules_of_schedules_multiply_and_reach_every_term() -> None:
    loss = (A.scheduled(end=4, after=0.5) + B).scheduled(start=2, before=0.1)
    assert loss.weights(0) == pytest.approx({"a": 0.1, "b": 0.1})
    assert loss.weights(2) == {"a": 1, "b": 1} and loss.weights(9) == {"a": 0.5, "b": 1}


@pytest.mark.parametrize(
    "options",
    [
        {"start": -1},
        {"end": 0},
        {"start": 5, "end": 5},
        {"end": 5, "fade_in": 3, "fade_out": 3},
        {"fade_out": 3},
        {"after": 0.1},
        {"before": float("nan")},
    ],
)
def test_impossible_schedules_are_refused(options: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"Got|A schedule got"):
        A.scheduled(**options)


def test_the_gradient_is_that_of_the_iteration_and_the_value_that_of_the_end() -> None:
    loss = A + 3 * B.scheduled(start=4, fade_in=1)
    for iteration, weight in ((0, 0.0), (4, 0.5), (5, 1.0), (50, 1.0)):
        value, objective, terms = evaluate(loss, IMAGE, iteration)
        torch.testing.assert_close(value, A(IMAGE) + 3 * B(IMAGE))
        torch.testing.assert_close(objective, A(IMAGE) + 3 * weight * B(IMAGE))
        torch.testing.assert_close(terms["b"], B(IMAGE))
        torch.testing.assert_close(gradient(loss, iteration=iteration), gradient(A) + 3 * weight * gradient(B))
    torch.testing.assert_close(gradient(loss), gradient(A + 3 * B))
    torch.testing.assert_close(loss(IMAGE), A(IMAGE) + 3 * B(IMAGE))


def test_while_nothing_is_on_the_gradient_is_zero() -> None:
    loss = A.scheduled(start=3)
    assert not gradient(loss, iteration=0).any()
    assert not evaluate(loss, IMAGE, 0).objective.any()
    torch.testing.assert_close(loss(IMAGE), A(IMAGE))


def test_a_loss_without_schedule_is_its_own() -> None:
    loss = A + 2 * B
    assert torch.equal(gradient(loss, iteration=7), gradient(loss)) and loss.settled == A.settled == 0
    assert gf.balanced(A, B).settled == 0
    made = problem(linear(), loss=Distance(target(linear())))
    assert made.at(3) is made


def test_a_schedule_that_leaves_nothing_is_refused() -> None:
    for loss in (A.scheduled(end=3), gf.balanced(A, B).scheduled(end=3) + 0 * A):
        with pytest.raises(InvalidLoss, match="Nothing is left of the loss"):
            problem(linear(), loss=loss)
    problem(linear(), loss=A.scheduled(end=3, after=0.1))


def test_describe_says_when_a_term_is_on() -> None:
    assert (A + 0.5 * B.scheduled(start=10, end=30)).describe() == "a + 0.5 * b (from 10, to 30)"


def test_nested_sums_log_every_term_under_a_unique_name() -> None:
    _, _, terms = evaluate(2 * (A + B).named("both") + gf.balanced(A, 3 * B) + A, IMAGE)
    assert sorted(terms) == ["a", "a-2", "a-3", "b", "b-2", "balanced", "both"]
    torch.testing.assert_close(terms["balanced"], A(IMAGE) + 3 * B(IMAGE))


def solve(loss: Any, iterations: int, **options: Any) -> gf.Solution:
    options = {"solver": gf.Anchored(scale=4.0), "seed": [0, 1]} | options
    return gf.solve(linear(), loss, max_iterations=iterations, **options)


@pytest.fixture(name="pull")
def _pull() -> gf.Loss:
    return Distance(target(linear())).named("pull")


def test_a_term_that_comes_later_leaves_what_was_before_as_it_is(pull: Any) -> None:
    plain = solve(pull + 0 * gf.as_loss(smoothness), 4)
    late = solve(pull + gf.as_loss(smoothness).scheduled(start=4), 6)
    # Iterates 0..4 were made by updates from iterations 0..3, where the term was off.
    for name in ("pull", "smoothness", "control_norm"):
        torch.testing.assert_close(late.history[name][:5], plain.history[name], rtol=0, atol=0)
    both = solve(pull + smoothness, 6)
    assert not torch.equal(late.history["pull"][5], both.history["pull"][5])
    torch.testing.assert_close(late.history["loss"], late.history["pull"] + late.history["smoothness"])


def test_iterate_follows_the_schedule_too(pull: Any) -> None:
    loss = pull + gf.as_loss(smoothness).scheduled(end=2, after=0.1)
    made = problem(linear(), loss=loss)
    states = [state for state, _ in zip(gf.iterate(made, gf.Anchored(scale=4.0)), range(5), strict=False)]
    torch.testing.assert_close(states[-1].controls, solve(loss, 4).state.controls, rtol=0, atol=0)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
@pytest.mark.parametrize("balance", [False, True], ids=["sum", "balanced"])
def test_a_resumed_run_equals_an_uninterrupted_one(solver: Any, balance: bool, pull: Any, tmp_path: Path) -> None:
    timed = gf.as_loss(smoothness).scheduled(start=2, end=7, fade_in=2, fade_out=2, after=0.2)
    loss = gf.balanced(pull, timed) if balance else pull + timed
    whole = solve(loss, 9, solver=solver)
    for stop in (3, 8):
        part = solve(loss, stop, solver=solver)
        part.save(tmp_path / str(stop))
        for resumed in (
            gf.resume(part, max_iterations=9),
            gf.resume(tmp_path / str(stop), max_iterations=9, sampler=linear(), loss=loss, solver=solver),
        ):
            assert resumed.history.keys() == whole.history.keys()
            for name, column in whole.history.items():
                torch.testing.assert_close(resumed.history[name], column, rtol=0, atol=0)
            torch.testing.assert_close(resumed.kept.controls, whole.kept.controls, rtol=0, atol=0)
            assert torch.equal(resumed.best.iteration, whole.best.iteration)


def test_images_of_a_batch_are_as_alone(pull: Any) -> None:
    loss = gf.balanced(pull, 0.5 * gf.as_loss(smoothness).scheduled(start=2))
    together = solve(loss, 5)
    for i in range(2):
        torch.testing.assert_close(together.images[i : i + 1], solve(loss, 5, seed=i).images)


def test_best_compares_iterates_by_the_weights_of_the_end(pull: Any) -> None:
    # First away from the picture, then nothing: the unguided image is the best by what stays.
    loss = pull.scheduled(start=100, before=-1.0)
    solution = solve(loss, 5)
    assert solution.best.iteration.tolist() == [0, 0]
    torch.testing.assert_close(solution.history["loss"], solution.history["pull"])
    assert (solution.history["loss"].diff(dim=0) > 0).all()


def test_patience_counts_from_when_the_weights_have_settled(pull: Any) -> None:
    def flat(image: Tensor) -> Tensor:
        return 0 * pull(image)

    for loss, iterations in (
        (gf.as_loss(flat), 3),
        (gf.as_loss(flat).scheduled(start=6), 9),
        (gf.as_loss(flat).scheduled(start=5), 8),
    ):
        solution = solve(loss, 40, patience=3)
        assert {result.name for result in solution.result} == {"NO_IMPROVEMENT"}
        assert solution.stats["iterations"] == iterations


def test_target_is_compared_with_the_loss_of_the_end(pull: Any) -> None:
    free = solve(pull, 30)
    goal = float(free.loss.max()) * 1.5
    timed = solve(pull + (0.5 * pull.named("again")).scheduled(end=4), 30, target_loss=goal)
    assert {r.name for r in timed.result} == {"TARGET_REACHED"}
    torch.testing.assert_close(timed.history["loss"], timed.history["pull"])


SOURCE = """
import guideflow as gf

class Grey(gf.Loss):
    def __init__(self, level=0.5):
        self.level = level
    def __call__(self, image):
        return (image - self.level).square().flatten(1).mean(1)

@gf.hookimpl
def guideflow_losses():
    return {"grey": Grey}
"""


def test_a_saved_run_carries_schedules_and_balance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_distribution(tmp_path, "grey = plugin_grey", SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.refresh()
    try:
        sampler = gf.load_sampler("toy-linear")
        one, two, three = (gf.load_loss("grey", level=level) for level in (0.1, 0.3, 0.9))
        loss = 2 * gf.balanced(one, two.scheduled(start=1), limit=5) + three.scheduled(end=4, after=0.5)
        gf.solve(sampler, loss, solver=gf.Anchored(), max_iterations=2).save(tmp_path / "run")
        whole = gf.solve(sampler, loss, solver=gf.Anchored(), max_iterations=6)
        resumed = gf.resume(tmp_path / "run", max_iterations=6)
        for name, column in whole.history.items():
            torch.testing.assert_close(resumed.history[name], column, rtol=0, atol=0)
    finally:
        registry.refresh()
        sys.modules.pop("plugin_grey", None)
