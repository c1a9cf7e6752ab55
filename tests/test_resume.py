"""What a resumed solve remembers: prompts, time, plan, and the memory of solvers that others have written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import guideflow as gf
from guideflow import registry
from guideflow.errors import CannotResume, InvalidArgument
from guideflow.testing import fake_distribution
from problems import Distance, Sign, assert_same, mixture, solve, target


def test_resume_remembers_negative_prompts(tmp_path: Path) -> None:
    sampler = mixture()
    options: dict[str, Any] = {"prompt": "", "negative_prompt": ["disc red", "blue square ring"], "solver": "flowgrad"}
    whole, half = solve(sampler, 4, **options), solve(sampler, 2, **options)
    half.save(tmp_path)
    assert_same(gf.resume(tmp_path, max_iterations=4, sampler=sampler, loss=half.problem.loss), whole)
    other = solve(sampler, 4, **(options | {"negative_prompt": None}))
    assert not torch.equal(whole.images, other.images), "the comparison would be empty"


def test_resume_counts_the_time_of_both_parts(tmp_path: Path) -> None:
    half = solve(mixture(), 2)
    late = replace(half, stats={**half.stats, "seconds": 1000.0})
    late.save(tmp_path)
    for start in (late, tmp_path):
        resumed = gf.resume(start, max_iterations=3, sampler=mixture(), loss=half.problem.loss)
        assert 1000 < resumed.stats["seconds"] < 1000 + 600


def test_a_solver_of_a_third_party_made_by_hand_resumes_from_disk(tmp_path: Path, monkeypatch: Any) -> None:
    sampler, loss = mixture(), Distance(target(mixture()))
    solver = Sign(scale=0.05)
    whole = gf.solve(sampler, loss, solver=solver, max_iterations=6)
    gf.solve(sampler, loss, solver=solver, max_iterations=3).save(tmp_path / "unknown")
    with pytest.raises(CannotResume, match=r"gf\.resume\(\.\.\., solver=solver\)"):
        gf.resume(tmp_path / "unknown", max_iterations=6, sampler=sampler, loss=loss)
    resumed = gf.resume(tmp_path / "unknown", max_iterations=6, sampler=sampler, loss=loss, solver=solver)
    assert_same(resumed, whole)
    assert resumed.state.memory["a/b. c"]["count"].tolist() == [6]
    # With a name of its own it needs no object, nor do the solvers inside it.
    source = "from guideflow import hookimpl\nfrom problems import Sign\n"
    source += "@hookimpl\ndef guideflow_solvers():\n    return {'test-sign': Sign}\n"
    fake_distribution(tmp_path, "sign = guideflow_test_sign", source)
    monkeypatch.syspath_prepend(tmp_path)
    registry.refresh()
    try:
        gf.solve(sampler, loss, solver=solver, max_iterations=3).save(tmp_path / "known")
        again = gf.resume(tmp_path / "known", max_iterations=6, sampler=sampler, loss=loss)
    finally:
        monkeypatch.undo()
        registry.refresh()
    assert_same(again, whole)
    assert again.solver == solver


def test_the_plan_of_a_solve_is_its_own_and_outlives_a_stop(tmp_path: Path) -> None:
    sampler, loss = mixture(), Distance(target(mixture()))

    def stop(progress: Any) -> None:
        if progress.iteration == 10:
            raise KeyboardInterrupt

    whole = gf.solve(sampler, loss, max_iterations=30)
    assert torch.equal(whole.images, gf.solve(sampler, loss, max_iterations=30, solver=gf.Auto(iterations=30)).images)
    gf.solve(sampler, loss, max_iterations=30, callback=stop).save(tmp_path)
    assert_same(gf.resume(tmp_path, max_iterations=30, sampler=sampler, loss=loss), whole)
    longer = gf.resume(tmp_path, max_iterations=40, sampler=sampler, loss=loss)
    assert longer.settings.horizon == 30 and longer.settings.max_iterations == 40
    assert torch.equal(longer.history["loss"][:31], whole.history["loss"])


def test_what_a_solver_cannot_save_is_refused_before_the_work() -> None:
    class Listing(Sign):
        def remember(self, problem: gf.Problem, state: gf.State) -> dict[str, Any]:
            return {"all": [state.controls]}

    with pytest.raises(InvalidArgument, match=r"remembers a list as 'all'.*tensors \(1, \.\.\.\)"):
        gf.solve(mixture(), Distance(target(mixture())), solver=Listing(), max_iterations=3)
