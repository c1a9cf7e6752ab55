"""An image that is lost goes back and on in a shorter step, by itself; and memory that runs out is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import guideflow as gf
from guideflow._solve.recover import TRIES
from guideflow.errors import NonFinite
from problems import SOLVERS, Distance, assert_same, linear, mixture, target


class Cliff(Distance):
    """A distance that is nan for pictures that are nearer than a limit, and farther than another one."""

    def __init__(self, target: Tensor, near: float = 0.0, far: float = torch.inf) -> None:
        super().__init__(target)
        self.near, self.far, self.calls = near, far, 0

    def __call__(self, image: Any) -> Tensor:
        self.calls += 1
        found = super().__call__(image)
        here = found.detach()
        return torch.where((here < self.near) | (here > self.far), torch.nan, 1.0) * found


@dataclass(frozen=True)
class Leap(gf.ControlSolver):
    """Moves one image by far too much, or by what is no number."""

    name: ClassVar[str] = "test-leap"

    by: float = 1e6

    def move(self, problem: gf.Problem, state: gf.State) -> gf.Move:
        g = state.rollout.gradients[1:]
        factor = torch.ones(g.shape[1], dtype=g.dtype)
        factor[0] = self.by
        return gf.Move.of_controls(-0.05 * factor.view(1, -1, *[1] * (g.dim() - 2)) * g)


def solved(solver: Any, iterations: int = 8, seed: Any = (0, 1), **options: Any) -> gf.Solution:
    sampler = mixture()
    limits = {name: options.pop(name) for name in ("near", "far") if name in options}
    loss, options = Cliff(target(sampler), **limits), {"seed": list(seed), "candidates": 1, "keep": "last", **options}
    return gf.solve(sampler, loss, solver=solver, max_iterations=iterations, **options)


def test_a_move_that_is_too_long_is_made_shorter() -> None:
    wild, calm = solved(Leap()), solved(Leap(by=1.0))
    assert set(wild.result) == {gf.Result.MAX_ITERATIONS} and 0 < wild.stats["shorter_steps"] <= 8
    assert all(bool(column.isfinite().all()) for column in wild.history.values())
    # The other one is as it would have been.
    assert torch.equal(wild.images[1], calm.images[1])
    assert torch.equal(wild.history["loss"][:, 1], calm.history["loss"][:, 1])


@pytest.mark.parametrize("by", [torch.inf, 1e308])
def test_a_move_beyond_numbers_is_made_shorter_too(by: float) -> None:
    wild = solved(Leap(by=by), far=10.0)
    assert bool(wild.history["loss"].isfinite().all()) and wild.state.controls.isfinite().all()
    assert wild.history["control_norm"][-1, 0] > 0


def test_a_move_that_is_no_number_ends_the_image_and_no_other() -> None:
    wild = solved(Leap(by=torch.nan))
    assert wild.result == (gf.Result.NONFINITE, gf.Result.MAX_ITERATIONS)
    assert torch.equal(wild.images[0], wild.start[0]) and "shorter steps" in wild.result[0].value


def test_the_number_of_tries_is_bounded() -> None:
    sampler = mixture()
    loss = Cliff(target(sampler))
    start = gf.solve(sampler, loss, seed=[0, 1], candidates=1, max_iterations=0).loss

    class Trap(Cliff):
        def __call__(self, image: Any) -> Tensor:
            found = super().__call__(image)
            return found * torch.where(found.detach() == start.to(found), 1.0, torch.nan)  # good nowhere but here

    trap = Trap(target(sampler))
    lost = gf.solve(sampler, trap, seed=[0, 1], candidates=1, max_iterations=8)
    assert set(lost.result) == {gf.Result.NONFINITE} and torch.equal(lost.images, lost.start)
    assert trap.calls == 1 + 1 + TRIES and lost.stats["network_evaluations"] == 3 * trap.calls
    found = told(sampler, trap, solver=gf.Anchored(scale=5.0))
    assert "lead to where it is nan, inf or huge. Try a scale= below 5." in found


@pytest.mark.parametrize("name", SOLVERS)
def test_each_image_goes_back_by_itself_and_a_resumed_run_too(name: str, tmp_path: Path) -> None:
    solver = SOLVERS[name]
    losses = solved(solver).history["loss"]
    near = float((losses[0].min() + losses.min()) / 2)
    whole, part = solved(solver, near=near), solved(solver, 3, near=near)
    if losses.min() < losses[0].min():
        assert whole.stats["shorter_steps"] or gf.Result.NONFINITE in whole.result
    part.save(tmp_path)
    sampler = mixture()
    loss = Cliff(target(sampler), near)
    assert_same(gf.resume(tmp_path, max_iterations=8, sampler=sampler, loss=loss), whole)
    for i in (0, 1):
        alone = solved(solver, seed=[i], near=near)
        mine = alone.history["loss"][:, 0]  # shorter, if it was given up
        torch.testing.assert_close(mine, whole.history["loss"][: len(mine), i], rtol=1e-9, atol=1e-12)
        assert alone.result[0] is whole.result[i]


def test_controls_that_grow_without_end_are_held() -> None:
    sampler = linear()
    solver = gf.Anchored(scale=1e5, anchor="fixed")
    lost = gf.solve(sampler, Distance(target(sampler)), solver=solver, max_iterations=40, candidates=1)
    entries = lost.state.controls.numel()
    assert float(lost.history["control_norm"].max()) <= 1000 * entries**0.5 and lost.stats["shorter_steps"] > 0


def test_memory_that_runs_out_is_told_and_the_next_mode_is_taken() -> None:
    class Hungry(type(mixture())):  # type: ignore[misc]
        def predict(self, z: Tensor, row: Any, condition: Any) -> Tensor:
            if z.grad_fn is not None:  # a graph of several steps
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().predict(z, row, condition)

    options: dict[str, Any] = {"num_steps": 3, "size": 6, "deviation": 0.4, "dtype": "float64"}
    sampler, hungry = mixture(), Hungry(**options)
    loss = Distance(target(sampler))
    with pytest.warns(UserWarning, match=r"not enough memory for 'full' gradients.*'windowed' ones"):
        found = gf.solve(hungry, loss, gradient_mode="auto", memory_limit=1e12, max_iterations=3, candidates=1)
    assert found.stats["gradient_mode"] == "windowed"
    same = gf.solve(sampler, loss, gradient_mode="windowed", max_iterations=3, candidates=1)
    assert torch.equal(found.images, same.images)


def told(sampler: Any, loss: Any, **options: Any) -> str:
    with pytest.raises(NonFinite) as caught:
        gf.solve(sampler, loss, seed=[0, 1], candidates=1, throw=True, **{"max_iterations": 2, **options})
    return str(caught.value)


def test_what_nan_came_from_is_told_with_what_to_try() -> None:
    sampler = mixture()
    near = Distance(target(sampler))
    broken = gf.as_loss(lambda x: near(x) * torch.nan, "broken")
    sloping = gf.as_loss(lambda x: near(x) + (x * 0).flatten(1).sum(1).sqrt(), "sloping")
    assert "It is the loss 'broken' whose value or gradient is so on these pictures. Leave it out" in told(
        sampler, near + broken
    )
    assert "It is the loss 'sloping' whose" in (found := told(sampler, sloping)) and "Try another seed" in found
    assert "It is the loss 'broken' and 'sloping' whose" in told(sampler, broken + sloping)
    # Of a term that is only logged it is not.
    assert gf.solve(sampler, near + 0 * broken, max_iterations=1, throw=True).result[0] is gf.Result.MAX_ITERATIONS
    # The loss is in order, and its gradient too, but not 1e308 times the gradient.
    assert "not its gradient through the sampler. Try a lower loss_scale than 1e+308" in told(
        sampler, 1e10 * near, loss_scale=1e308
    )


class Overflowing(type(mixture())):  # type: ignore[misc]
    """A sampler in half precision whose pictures are nan, as the autoencoder of SDXL makes them."""

    def decode(self, z: Any) -> Any:
        self.dtype = torch.float16
        return super().decode(z) * torch.inf * 0


def test_half_precision_is_named_where_the_sampler_overflows() -> None:
    found = told(Overflowing(dtype="float32"), lambda x: x.flatten(1).mean(1))
    assert "pictures are nan or inf themselves. Load the sampler with dtype=float32 in the place of float16" in found
