"""Candidates: each image starts from the best of a few noises, which depend on its seed alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import guideflow as gf
from guideflow._solve.candidates import candidate_seed, near
from guideflow.errors import InvalidArgument
from guideflow.problem import Noise
from problems import Distance, mixture, target


def task(**options: Any) -> dict[str, Any]:
    sampler = mixture(**options)
    return {"sampler": sampler, "loss": Distance(target(sampler))}


def unguided(seed: int, parts: dict[str, Any]) -> gf.Solution:
    return gf.solve(**parts, seed=seed, max_iterations=0, candidates=1)


def test_the_start_is_the_best_of_the_noises_that_a_seed_stands_for() -> None:
    parts = task()
    solution = gf.solve(**parts, seed=[0, 1, 2], max_iterations=0, candidates=5)
    for i, seed in enumerate((0, 1, 2)):
        every = [unguided(candidate_seed(seed, j), parts) for j in range(5)]
        losses = torch.cat([one.loss for one in every])
        best = int(losses.argmin())
        assert int(solution.chosen[i]) == best
        torch.testing.assert_close(solution.loss[i], losses[best])
        torch.testing.assert_close(solution.start[i], every[best].unguided[0])
        torch.testing.assert_close(solution.unguided[i], every[0].unguided[0])
    assert len(set(solution.chosen.tolist()) - {0}) > 0  # else it tells nothing


def test_the_first_candidate_is_the_seed_itself() -> None:
    assert [candidate_seed(seed, 0) for seed in (0, 7)] == [0, 7]
    seeds = {candidate_seed(seed, number) for seed in range(50) for number in range(1, 20)}
    assert len(seeds) == 50 * 19
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_one_candidate_is_the_plain_solve_bit_for_bit() -> None:
    parts = task()
    plain = gf.solve(**parts, seed=[3, 4], solver="flowgrad", max_iterations=3)
    one = gf.solve(**parts, seed=[3, 4], solver="flowgrad", max_iterations=3, candidates=1)
    assert torch.equal(plain.images, one.images)
    assert torch.equal(one.start, one.unguided)
    assert one.chosen.tolist() == [0, 0]


@pytest.mark.parametrize("count", [6, 7])
def test_half_of_the_candidates_may_walk_from_the_best_so_far(count: int) -> None:
    sampler = mixture(family="ancestral")
    loss = Distance(target(sampler))
    options: dict[str, Any] = {"candidates": count, "candidate_radius": 0.4, "max_iterations": 0}
    solution = gf.solve(sampler, loss, seed=[3, 4, 5], **options)
    for i, seed in enumerate((3, 4, 5)):
        tried = []
        for j in range(count):
            noise = gf.draw_noise(sampler, [candidate_seed(seed, j)])
            if j >= count / 2:
                best = min(tried, key=lambda one: one[0])[1]
                noise = Noise(
                    0.84**0.5 * best.initial + 0.4 * noise.initial,
                    tuple(
                        s if s is None else 0.84**0.5 * b + 0.4 * s
                        for b, s in zip(best.steps, noise.steps, strict=True)
                    ),
                )
            problem = gf.Problem(sampler, loss, noise, sampler.condition([""]))
            zero = torch.zeros(problem.num_steps, *problem.z0.shape, dtype=problem.z0.dtype)
            tried.append((problem.rollout(problem.z0, zero, gradients=False).loss.item(), noise))
        lowest, noise = min(tried, key=lambda one: one[0])
        assert solution.loss[i].item() == pytest.approx(lowest, rel=1e-6)
        assert int(solution.chosen[i]) == [one[0] for one in tried].index(lowest)
        torch.testing.assert_close(solution.noise.initial[i], noise.initial[0])
        for mixed, wanted in zip(solution.noise.steps, noise.steps, strict=True):
            assert (mixed is None) == (wanted is None)
            if mixed is not None and wanted is not None:
                torch.testing.assert_close(mixed[i], wanted[0])
    assert int(solution.chosen.max()) >= count / 2  # else it tells nothing


def test_a_walk_keeps_noise_normal_and_finds_more_than_independent_draws() -> None:
    sampler = gf.load_sampler("toy-mixture", size=32)
    old, new = gf.draw_noise(sampler, [1]), gf.draw_noise(sampler, [2])
    mixed = near(old, new, 0.3).initial
    assert mixed.std().item() == pytest.approx(1, abs=0.05) and abs(mixed.mean().item()) < 0.05
    correlation = (mixed * old.initial).mean().item()
    assert correlation == pytest.approx(0.91**0.5, abs=0.05)
    parts, seeds = task(), list(range(32))
    losses = [
        gf.solve(**parts, seed=seeds, max_iterations=0, candidates=16, candidate_radius=radius).loss.mean()
        for radius in (1.0, 0.5)
    ]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("given", [0, -0.5, 1.01, float("nan")])
def test_what_is_no_share_is_refused_as_radius(given: Any) -> None:
    with pytest.raises(InvalidArgument, match="candidate_radius"):
        gf.solve(**task(), max_iterations=0, candidates=4, candidate_radius=given)


@pytest.mark.parametrize("radius", [1.0, 0.5])
def test_images_of_a_batch_choose_by_themselves(radius: float) -> None:
    parts = task() | {"candidate_radius": radius}
    together = gf.solve(**parts, seed=[0, 1, 2], max_iterations=4, candidates=4)
    for i, seed in enumerate((0, 1, 2)):
        alone = gf.solve(**parts, seed=seed, max_iterations=4, candidates=4)
        torch.testing.assert_close(together.images[i], alone.images[0])
        assert together.chosen[i] == alone.chosen[0]


def test_stochastic_steps_take_the_noise_of_the_chosen_candidate() -> None:
    sampler = mixture(family="ancestral")
    parts = {"sampler": sampler, "loss": Distance(target(sampler))}
    solution = gf.solve(**parts, seed=[0, 1], max_iterations=0, candidates=4)
    for i, seed in enumerate((0, 1)):
        chosen = unguided(candidate_seed(seed, int(solution.chosen[i])), parts)
        torch.testing.assert_close(solution.images[i], chosen.images[0])


def test_evaluations_of_candidates_are_counted() -> None:
    parts = task()
    steps = parts["sampler"].num_steps
    counts = [gf.solve(**parts, max_iterations=2, candidates=n).stats["network_evaluations"] for n in (1, 6)]
    assert counts == [3 * steps, (6 + 3) * steps]


@pytest.mark.parametrize("radius", [1.0, 0.5])
def test_a_resumed_solve_goes_on_from_the_chosen_start(radius: float, tmp_path: Any) -> None:
    parts, options = task(), {"candidates": 4, "candidate_radius": radius}

    def interrupt(progress: Any) -> None:
        if progress.iteration == 2:
            raise KeyboardInterrupt

    whole = gf.solve(**parts, **options, seed=[0, 1], max_iterations=5)
    gf.solve(**parts, **options, seed=[0, 1], max_iterations=5, callback=interrupt).save(tmp_path / "run")
    again = gf.resume(tmp_path / "run", max_iterations=5, **parts)
    for name in ("images", "unguided", "start", "chosen", "loss"):
        assert torch.equal(getattr(whole, name), getattr(again, name)), name
    assert again.stats["network_evaluations"] == whole.stats["network_evaluations"]


@pytest.mark.parametrize("lost_value", [torch.nan, torch.inf, -torch.inf])
def test_a_candidate_without_a_loss_is_never_chosen(lost_value: float) -> None:
    sampler = mixture()
    plain = gf.solve(sampler, Distance(target(sampler)), seed=0, max_iterations=0, candidates=6)
    lost = plain.start.clone()

    def loss(image: Tensor) -> Tensor:
        distance = (image - target(sampler)).square().flatten(1).mean(1)
        same = (image - lost).abs().flatten(1).amax(1) < 1e-9
        return torch.where(same, lost_value, distance)

    assert int(plain.chosen) != 0
    other = gf.solve(sampler, loss, seed=0, max_iterations=0, candidates=6)
    assert bool(other.loss.isfinite().all())
    assert int(other.chosen) != int(plain.chosen)


@pytest.mark.parametrize("call", [2, 4, 6])
def test_what_a_loss_raises_while_the_start_is_chosen_leaves_the_best_so_far(tmp_path: Path, call: int) -> None:
    sampler, calls = mixture(), list[int]()

    def distance(image: Tensor) -> Tensor:
        calls.append(len(calls))
        if len(calls) == call:
            raise ConnectionError("the judge is gone")
        return Distance(target(sampler))(image)

    options: dict[str, Any] = {"seed": [0, 1], "candidates": 5}
    with pytest.raises(ConnectionError, match="the judge is gone") as error:
        gf.solve(sampler, distance, max_iterations=3, save_to=tmp_path / "run", **options)
    kept: gf.Solution = error.value.solution  # type: ignore[attr-defined]
    fewer = gf.solve(sampler, Distance(target(sampler)), max_iterations=0, **options | {"candidates": call - 1})
    assert torch.equal(kept.images, fewer.images) and set(kept.result) == {gf.Result.ERROR}
    whole = gf.solve(sampler, Distance(target(sampler)), max_iterations=3, **options)
    again = gf.resume(tmp_path / "run", max_iterations=3, sampler=sampler, loss=Distance(target(sampler)))
    assert torch.equal(again.images, whole.images)


def test_what_the_first_of_all_calls_raises_is_raised_as_it_is(tmp_path: Path) -> None:
    def fails(image: Tensor) -> Tensor:
        raise ConnectionError("the judge is gone")

    for candidates in (1, 4):
        with pytest.raises(ConnectionError) as error:
            gf.solve(mixture(), fails, max_iterations=3, candidates=candidates, save_to=tmp_path / "run")
        assert not hasattr(error.value, "solution") and not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", [0, -1])
def test_what_is_no_number_of_candidates_is_refused(given: Any) -> None:
    with pytest.raises(InvalidArgument, match="candidates"):
        gf.solve(**task(), max_iterations=0, candidates=given)


def test_a_solver_says_how_many_it_wants_and_the_user_has_the_last_word() -> None:
    parts = task()
    steps = parts["sampler"].num_steps

    def rollouts(**options: Any) -> int:
        return gf.solve(**parts, max_iterations=0, **options).stats["network_evaluations"] // steps - 1

    assert rollouts() == rollouts(solver="auto") == gf.Auto().candidates > 1
    assert rollouts(solver="anchored") == rollouts(solver=gf.Annealed()) == rollouts(candidates=1) == 0
    assert rollouts(solver="anchored", candidates=3) == rollouts(candidates=3) == 3


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize("num_steps", [1, 4])
@pytest.mark.parametrize("kind", ["distance", "brightness", "sum"])
def test_the_default_does_not_depend_on_the_unit_of_the_loss(kind: str, num_steps: int, factor: float) -> None:
    sampler = mixture(num_steps=num_steps)
    distance = gf.as_loss(Distance(target(sampler)))
    brightness = gf.as_loss(lambda image: (image.flatten(1).mean(1) - 0.9).square())
    loss = {"distance": distance, "brightness": brightness, "sum": distance + 0.1 * brightness}[kind]
    plain = gf.solve(sampler, loss, seed=[0, 1, 2])
    other = gf.solve(sampler, factor * loss, seed=[0, 1, 2])
    assert torch.equal(plain.chosen, other.chosen)
    assert bool((plain.loss < plain.history["loss"][0]).all())
    torch.testing.assert_close(other.images, plain.images, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(other.loss, factor * plain.loss, rtol=1e-6, atol=0)


def test_small_losses_settle() -> None:
    sampler = mixture()
    loss = gf.as_loss(lambda image: (image.flatten(1).mean(1) - 0.6).square())
    solution = gf.solve(sampler, loss, seed=[0, 1, 2], candidates=1, max_iterations=60)
    assert bool((solution.loss < 5e-3 * solution.history["loss"][0]).all())
    change = solution.history["loss"].diff(dim=0).abs()
    assert bool((change[-10:].amax(0) < 0.02 * change.amax(0)).all())  # steps that are long and never shrink go on
