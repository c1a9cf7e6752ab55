"""Finished latents that go through the last window once more."""

from typing import Any

import pytest
import torch

import guideflow as gf
from guideflow.errors import IncompatibleSolver, InvalidArgument
from guideflow.solvers import Outlook, Polished, draw
from guideflow.testing import check_solver
from problems import Distance, mixture, problem, run, target
from test_solvers import NotAffine

families = pytest.mark.parametrize("family", ["ddim", "ancestral", "flow"])
inner = pytest.mark.parametrize(
    "solver",
    [
        gf.FlowGrad(scale=2.0, noise=0.5),
        gf.solvers.Universal(repeats=2),
        gf.TrustRegion(gf.Momentum(gf.FlowGrad(scale=2.0))),
        gf.solvers.ReNO(),
        gf.Auto(),
    ],
    ids=["flowgrad", "universal", "wrappers", "reno", "auto"],
)


@inner
def test_it_keeps_what_solvers_owe(solver: gf.Solver) -> None:
    check_solver(lambda: Polished(solver))


@families
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_it_is_its_equation_and_its_controls_make_its_pictures(family: str, share: float) -> None:
    task, solver = problem(mixture(family=family)), gf.FlowGrad(scale=2.0)
    own, found = run(task, solver, 1)[-1], run(task, Polished(solver, share), 1)[-1]
    sampler: Any = task.sampler
    row, outlook, z = sampler.schedule[-1], Outlook.of(sampler.schedule), own.rollout.states[-1]
    assert outlook is not None
    y = outlook.signal[2] * z + outlook.noise[2] * draw(task, -1, 0)
    clean = row.state * y + row.output * sampler.predict(y, row, task.condition) + row.noise * draw(task, -1, 1)
    torch.testing.assert_close(found.rollout.states[-1], (1 - share) * z + share * clean, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found.rollout.states[-1], z, atol=1e-4)
    again = task.rollout(found.z0, found.controls, gradients=False)
    for name in ("images", "loss"):
        torch.testing.assert_close(getattr(again, name), getattr(found.rollout, name), rtol=1e-12, atol=1e-12)


@inner
@families
def test_the_solver_inside_goes_its_own_way(family: str, solver: gf.Solver) -> None:
    task = problem(mixture(family=family))
    own, found, none = (run(task, one, 4) for one in (solver, Polished(solver), Polished(solver, 0.0)))
    for a, b, c in zip(own, found, none, strict=True):
        assert torch.equal(a.controls[:-1], b.controls[:-1]) and torch.equal(a.z0, b.z0)
        assert torch.equal(a.rollout.images, c.rollout.images) and torch.equal(a.rollout.loss, c.rollout.loss)
    assert torch.equal(own[0].rollout.images, found[0].rollout.images)  # nothing guides the first
    assert found[-1].rollout.evaluations == own[-1].rollout.evaluations + 1


def test_what_nothing_guides_stays_as_it_is() -> None:
    first, *_, last = run(problem(mixture()), Polished(gf.FlowGrad(scale=0.0)), 2)
    assert torch.equal(first.rollout.images, last.rollout.images) and not last.controls.any()


@families
def test_it_is_saved_and_resumed_and_draws_one_noise(family: str, tmp_path: Any) -> None:
    sampler = mixture(family=family)
    loss, parts = gf.as_loss(Distance(target(sampler))), {"solver": Polished(gf.Auto(0.5, iterations=5), share=0.4)}
    whole = gf.solve(sampler, loss, seed=[0, 1], max_iterations=5, keep="last", **parts)
    gf.solve(sampler, loss, seed=[0, 1], max_iterations=2, keep="last", **parts).save(tmp_path / "run")
    on = gf.resume(tmp_path / "run", sampler=sampler, loss=loss, max_iterations=5, solver=parts["solver"])
    assert torch.equal(on.images, whole.images) and torch.equal(on.history["loss"], whole.history["loss"])
    settled = run(problem(sampler), Polished(gf.Annealed(gf.FlowGrad(), start=1.0, end=0.0, iterations=3)), 6)
    assert torch.equal(settled[-1].rollout.images, settled[-2].rollout.images)
    assert whole.stats["network_evaluations"] == (16 + 6) * 3 + 5


def test_the_default_polishes_where_it_is_asked_to_and_there_is_something_to() -> None:
    assert gf.Auto(polish=0.5).parts(4) == Polished(gf.Auto().parts(4), 0.5)
    assert gf.Auto(passes=True, polish=1).parts(4) == Polished(gf.Auto(passes=True).parts(4), 1)
    assert gf.Auto(polish=0.5).parts(1) == gf.Auto().parts(1)
    assert (Polished(gf.Auto(passes=True)).default_iterations, Polished(gf.Auto()).candidates) == (3, 16)
    assert (Polished().default_iterations, Polished().candidates) == (12, 1)


def test_it_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(IncompatibleSolver, match=r"needs the network itself"):
        gf.solve(NotAffine(), lambda image: image.flatten(1).sum(1), solver=Polished())
    with pytest.raises(IncompatibleSolver, match=r"this sampler has one step"):
        run(problem(mixture(num_steps=1)), Polished(), 1)
    with pytest.raises(InvalidArgument, match=r"share=2"):
        Polished(share=2)
    with pytest.raises(InvalidArgument, match=r"polish=-1\. Expected a finite number in \[0, 1\]\."):
        gf.Auto(polish=-1)
    with pytest.raises(InvalidArgument, match=r"wraps moves only"):
        run(problem(mixture()), gf.Momentum(gf.Auto(polish=0.5)), 1)
