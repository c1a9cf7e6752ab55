"""The driver: stopping image by image, keeping the best, surviving nan and Ctrl-C."""

from inspect import unwrap
from typing import Any

import pytest
import torch
from torch import Tensor

import guideflow as gf
from guideflow.errors import CannotResume, InvalidArgument, InvalidLoss, NonFinite, UnknownPlugin
from problems import SOLVERS, Distance, linear, mixture, smoothness, target


class NanBelow:
    """A distance that becomes nan for one image once it is low: as if the detector broke."""

    def __init__(self, sampler: Any, floor: float) -> None:
        self.distance, self.floor = Distance(target(sampler)), floor

    def __call__(self, image: Tensor) -> Tensor:
        loss = self.distance(image)
        return loss * torch.where(loss.detach() < self.floor, torch.nan, 1.0)


def test_nan_sends_one_image_back_and_leaves_the_others() -> None:
    sampler = linear()
    options: dict[str, Any] = {"seed": [0, 1, 2], "max_iterations": 12, "keep": "last", "solver": "anchored"}
    clean = gf.solve(sampler, Distance(target(sampler)), **options)
    losses = clean.history["loss"]
    victim = int(losses[6].argmin())
    floor = losses[6, victim].item() * (1 + 1e-9)
    assert int((losses < floor).any(0).sum()) == 1, "only one image must meet the nan"
    spoilt = gf.solve(sampler, NanBelow(sampler, floor), **options)
    others = [i for i in range(3) if i != victim]
    assert all(spoilt.result[i] is gf.Result.MAX_ITERATIONS for i in others)
    assert torch.equal(spoilt.images[others], clean.images[others])
    assert torch.equal(spoilt.history["loss"][:, others], losses[:, others])
    # From its last good iterate it went on in shorter steps, until none was short enough.
    mine = spoilt.history["loss"][:, victim]
    assert torch.equal(mine[:6], losses[:6, victim]) and floor <= mine.min() < losses[5, victim]
    assert 0 < spoilt.stats["shorter_steps"] <= 7
    assert all(bool(column.isfinite().all()) for column in spoilt.history.values())


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_nan_from_the_start_is_reported_and_contained(solver: Any) -> None:
    sampler = mixture()
    clean = gf.solve(sampler, Distance(target(sampler)), seed=[0, 1, 2], max_iterations=5, solver=solver)
    mask = torch.tensor([1.0, torch.nan, 1.0])
    loss = Distance(target(sampler))
    spoilt = gf.solve(sampler, lambda x: loss(x) * mask, seed=[0, 1, 2], max_iterations=5, solver=solver)
    assert spoilt.result[1] is gf.Result.NONFINITE_START and spoilt.result[0] is gf.Result.MAX_ITERATIONS
    assert torch.equal(spoilt.images[[0, 2]], clean.images[[0, 2]])
    assert torch.equal(spoilt.images[1], spoilt.unguided[1])
    with pytest.raises(NonFinite, match=r"Image 1: .* nan") as caught:
        gf.solve(sampler, lambda x: loss(x) * mask, seed=[0, 1, 2], max_iterations=5, throw=True)
    assert isinstance(caught.value.solution, gf.Solution)


def test_nan_gradient_with_a_finite_loss_stops_too() -> None:
    # The square root has an infinite slope at 0, and 0 x inf is nan.
    sampler = linear()
    loss = Distance(target(sampler))
    broken = gf.solve(sampler, lambda x: loss(x) + (x * 0).sum(1).sqrt(), seed=[0, 1], max_iterations=3)
    assert {result.name for result in broken.result} == {"NONFINITE_START"}
    assert bool(broken.loss.isfinite().all())


def test_best_is_kept_not_the_last() -> None:
    # In a peer the best iterate was overwritten by the last. Far too large a scale makes the loss go up and down.
    sampler = linear()
    options: dict[str, Any] = {"seed": [0, 1, 2, 3], "max_iterations": 25, "solver": gf.Anchored(scale=60.0)}
    best = gf.solve(sampler, Distance(target(sampler)), **options)
    last = gf.solve(sampler, Distance(target(sampler)), **options, keep="last")
    history = best.history["loss"]
    assert torch.equal(best.loss, history.min(0).values) and torch.equal(last.loss, history[-1])
    assert bool((best.loss < last.loss).any())
    assert torch.equal(Distance(target(sampler))(best.images), best.loss)
    again = best.problem.rollout(best.kept.z0, best.controls)
    assert torch.equal(again.images, best.images) and torch.equal(again.states[-1], best.latents)


def test_target_loss_stops_each_image_by_itself() -> None:
    sampler = linear()
    loss = Distance(target(sampler))
    free = gf.solve(sampler, loss, seed=[0, 1, 2], max_iterations=60)
    goal = free.history["loss"][30].median().item()
    solution = gf.solve(sampler, loss, seed=[0, 1, 2], max_iterations=60, target_loss=goal)
    reached = (free.history["loss"] <= goal).int()
    for i in range(3):
        if reached[:, i].any():
            first = int(reached[:, i].argmax())
            assert solution.result[i] is gf.Result.TARGET_REACHED
            assert solution.loss[i] == free.history["loss"][first, i]
        else:
            assert solution.result[i] is gf.Result.MAX_ITERATIONS
    assert gf.Result.TARGET_REACHED in solution.result
    assert gf.solve(sampler, loss, target_loss=1e9).stats["iterations"] == 0


def test_patience_counts_from_the_best_iterate() -> None:
    sampler = linear()
    solver = gf.Anchored(scale=40.0)
    free = gf.solve(sampler, Distance(target(sampler)), seed=3, solver=solver, max_iterations=60)
    stopped = gf.solve(sampler, Distance(target(sampler)), seed=3, solver=solver, max_iterations=60, patience=4)
    losses = free.history["loss"][:, 0].tolist()
    best, when = losses[0], 0
    for i, loss in enumerate(losses):
        best, when = (loss, i) if loss < best else (best, when)
        if i - when >= 4:
            break
    assert stopped.stats["iterations"] == i < 60
    assert stopped.result == (gf.Result.NO_IMPROVEMENT,) and stopped.loss.item() == best


def test_time_limit_ends_the_solve_and_resume_goes_on() -> None:
    sampler = linear()
    loss = Distance(target(sampler))
    short = gf.solve(sampler, loss, max_iterations=8, time_limit=1e-9)
    assert short.result == (gf.Result.TIME_LIMIT,) and short.stats["iterations"] == 0
    whole, resumed = gf.solve(sampler, loss, max_iterations=8), gf.resume(short, max_iterations=8)
    assert torch.equal(resumed.images, whole.images) and resumed.result == (gf.Result.MAX_ITERATIONS,)


def test_interrupt_keeps_what_was_reached() -> None:
    sampler = linear()
    loss = Distance(target(sampler))

    def interrupt(progress: Any) -> None:
        if progress.iteration == 4:
            raise KeyboardInterrupt

    solution = gf.solve(sampler, loss, seed=[0, 1], max_iterations=9, callback=interrupt)
    assert set(solution.result) == {gf.Result.INTERRUPTED} and len(solution.history["loss"]) == 5
    whole = gf.solve(sampler, loss, seed=[0, 1], max_iterations=9)
    assert torch.equal(gf.resume(solution, max_iterations=9).images, whole.images)


def test_history_logs_every_term_under_a_unique_name() -> None:
    sampler = mixture()
    far = Distance(target(sampler))
    solution = gf.solve(sampler, 2 * far + 0.5 * gf.as_loss(smoothness) + far, seed=[0, 1], max_iterations=3)
    history = solution.history
    assert list(history) == ["loss", "distance", "smoothness", "distance-2", "gradient_norm", "control_norm"]
    assert all(column.shape == (4, 2) for column in history.values())
    total = 3 * history["distance"] + 0.5 * history["smoothness"]
    torch.testing.assert_close(history["loss"], total)
    assert bool((history["control_norm"][0] == 0).all()) and bool((history["control_norm"][1:] > 0).all())


def test_stats_count_the_work() -> None:
    solution = gf.solve(linear(num_steps=3), Distance(target(linear())), max_iterations=7)
    assert solution.stats["network_evaluations"] == 3 * (gf.Auto().candidates + 8) and solution.stats["iterations"] == 7
    assert solution.stats["seconds"] > 0 and solution.stats["peak_memory"] > 1e6


def test_prompts_and_seeds_broadcast() -> None:
    sampler = mixture()
    loss = Distance(target(sampler))
    solution = gf.solve(sampler, loss, prompt="red", seed=[1, 2, 3], max_iterations=1, negative_prompt="disc")
    assert solution.prompts == ("red",) * 3 and solution.seeds == (1, 2, 3)
    assert gf.solve(sampler, loss, prompt=["red", "blue"], seed=4, max_iterations=1).seeds == (4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ["a", "b"], "seed": [1, 2, 3]}, "2 for `prompt`, 3 for `seed`"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"] * 3}, "3 for `negative_prompt`"),
        ({"seed": []}, "0 for `seed`"),
        ({"max_iterations": -1}, "max_iterations"),
        ({"patience": 0}, "patience"),
        ({"time_limit": 0.0}, "time_limit"),
        ({"loss_scale": -1.0}, "loss_scale"),
    ],
)
def test_arguments_out_of_range_are_named(options: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        gf.solve(linear(), Distance(target(linear())), **options)


def test_what_is_no_solver_is_refused_before_the_work() -> None:
    unchecked: Any = unwrap(gf.solve)  # tests check annotations, which users do not
    with pytest.raises(InvalidArgument, match=r"as solver. Expected a name or an object: `gf.Anchored\(\)`"):
        unchecked(linear(), Distance(target(linear())), solver=gf.Anchored)


def test_unknown_solver_and_bad_loss() -> None:
    with pytest.raises(UnknownPlugin, match="anchord"):
        gf.solve(linear(), Distance(target(linear())), solver="anchord")
    with pytest.raises(InvalidLoss, match="one number per image"):
        gf.solve(linear(), lambda image: image.square().mean())


def test_float32_sampler_stays_float32_and_zero_iterations_are_the_images_to_start_from() -> None:
    sampler = mixture(dtype="float32")
    solution = gf.solve(sampler, Distance(target(sampler).float()), max_iterations=0)
    assert solution.images.dtype == torch.float32 and torch.equal(solution.images, solution.start)
    assert int(solution.chosen) > 0 and not torch.equal(solution.start, solution.unguided)
    plain = gf.solve(sampler, Distance(target(sampler).float()), max_iterations=0, candidates=1)
    assert torch.equal(plain.images, solution.unguided)
    with pytest.raises(CannotResume, match="total"):
        gf.resume(gf.solve(sampler, smoothness, max_iterations=2), max_iterations=1)
