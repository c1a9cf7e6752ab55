"""`auto` in passes: the rule it stands for, in no unit of the loss, as long as it asks for, saved and resumed."""

from typing import Any

import pytest
import torch

import guideflow as gf
from guideflow.errors import CannotResume, IncompatibleSolver, InvalidArgument
from guideflow.testing import check_solver
from problems import Distance, mixture, problem, run, target
from test_solvers import NotAffine

families = pytest.mark.parametrize("family", ["ddim", "ancestral", "flow"])


def solve(sampler: gf.Sampler, factor: float = 1.0, **options: Any) -> gf.Solution:
    loss = factor * gf.as_loss(Distance(target(sampler)))
    return gf.solve(sampler, loss, **{"seed": [0, 1], "solver": gf.Auto(passes=True)} | options)


def test_it_keeps_what_solvers_owe() -> None:
    check_solver(lambda: gf.Auto(passes=True))


@families
def test_it_is_universal_guidance_each_window_twice_and_asks_for_three_passes(family: str) -> None:
    sampler = mixture(family=family)
    found, parts = solve(sampler, solver=gf.Auto(0.5, passes=True)), gf.Auto(0.5, passes=True).parts(sampler.num_steps)
    assert parts == gf.solvers.Universal(scale=4.0, repeats=2, clip=0.03)
    assert found.stats["iterations"] == 3 and len(solve(sampler, solver="auto").history["loss"]) == 13
    by_hand = solve(sampler, solver=parts, max_iterations=3, candidates=16)
    assert torch.equal(found.images, by_hand.images) and bool(found.state.controls.any())


@families
@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_no_unit_of_the_loss_changes_it(family: str, factor: float) -> None:
    sampler = mixture(family=family)
    plain, other = solve(sampler), solve(sampler, factor)
    assert torch.equal(plain.chosen, other.chosen)
    torch.testing.assert_close(other.images, plain.images, rtol=1e-6, atol=1e-9)


def test_gradients_below_the_share_of_the_first_are_not_lengthened() -> None:
    task = problem(mixture(family="ddim"))
    first, second = run(task, gf.solvers.Universal(scale=1e-3, clip=1.0), 2)[1:]
    assert torch.equal(first.memory["first"], second.memory["first"]) and bool((first.memory["first"] > 0).all())
    moves = torch.stack([first.controls, second.controls - first.controls]).flatten(3).norm(dim=3)  # (2, K, B)
    gradients = moves[1] / moves[0]  # those of the second pass are shorter, and so are its moves
    assert bool((gradients < 1).any()) and bool((gradients <= 1 + 1e-9).all())
    short, long = (run(task, gf.solvers.Universal(scale=1e-3, clip=clip), 2)[-1].controls for clip in (1.0, 1e-6))
    assert bool(short.norm() < long.norm())


def test_it_is_saved_and_resumed_and_by_no_other_rule(tmp_path: Any) -> None:
    sampler = mixture(family="ancestral")
    whole = solve(sampler, max_iterations=4)
    loss = gf.as_loss(Distance(target(sampler)))
    solve(sampler, max_iterations=2).save(tmp_path / "run")
    parts: dict[str, Any] = {"sampler": sampler, "loss": loss, "max_iterations": 4}
    assert torch.equal(gf.resume(tmp_path / "run", **parts).images, whole.images)
    with pytest.raises(CannotResume, match="remembers"):
        gf.resume(tmp_path / "run", solver=gf.Auto(), **parts)
    solve(sampler, solver="auto", max_iterations=2).save(tmp_path / "other")
    with pytest.raises(CannotResume, match="remembers"):
        gf.resume(tmp_path / "other", solver=gf.Auto(passes=True), **parts)


def test_it_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(IncompatibleSolver, match=r"needs the network itself.*gf\.Auto\(\)"):
        gf.solve(NotAffine(), lambda image: image.flatten(1).sum(1), solver=gf.Auto(passes=True))
    with pytest.raises(InvalidArgument, match="It wraps moves only"):
        solve(mixture(), solver=gf.Momentum(gf.Auto(passes=True)), max_iterations=1)
    with pytest.raises(InvalidArgument, match="clip=0"):
        gf.solvers.Universal(clip=0)
