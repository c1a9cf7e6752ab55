"""Samplers, losses and solvers of others that return anything: refused by name, with what was reached before."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

import guideflow as gf
from guideflow.errors import GuideflowError, InvalidArgument, InvalidLoss, OutOfMemory
from guideflow.solvers import State
from guideflow.toy import ToyMixture
from problems import Distance, mixture, target


def solve(sampler: Any = None, **options: Any) -> gf.Solution:
    loss = options.pop("loss", None) or Distance(target(mixture()))
    return gf.solve(sampler or mixture(), loss, seed=[0, 1], max_iterations=3, **options)


def _rollout(**parts: Any) -> Callable[[State], Any]:
    return lambda state: replace(state, rollout=replace(state.rollout, **parts))


STATES: dict[str, Callable[[State], Any]] = {
    "class is NoneType": lambda state: None,
    "class is tuple": lambda state: (state, state),
    "iteration is": lambda state: replace(state, iteration=7),
    r"iteration is \d.0": lambda state: replace(state, iteration=float(state.iteration)),  # type: ignore[arg-type]
    "z0 is not": lambda state: replace(state, z0=state.z0[:1]),
    "z0 is not .* torch.float64": lambda state: replace(state, z0=state.z0.float()),
    "controls are not": lambda state: replace(state, controls=state.controls[:1]),
    "rollout is a NoneType": lambda state: replace(state, rollout=None),  # type: ignore[arg-type]
    "rollout has not 2 losses": lambda state: _rollout(loss=state.rollout.loss[:1])(state),
    "rollout has other images": _rollout(images=None),
    "memory is a list": lambda state: replace(state, memory=[1]),  # type: ignore[arg-type]
    "remembers something as 3": lambda state: replace(state, memory={3: state.z0}),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("says", STATES)
def test_a_wrong_state_is_refused(says: str, at: int) -> None:
    class Wrong(gf.Anchored):
        def init(self, problem: Any) -> Any:
            return super().init(problem) if at else STATES[says](super().init(problem))

        def step(self, problem: Any, state: Any) -> Any:
            found = super().step(problem, state)
            return STATES[says](found) if found.iteration == at else found

    with pytest.raises(InvalidArgument, match=says) as caught:
        solve(solver=Wrong(), candidates=1)
    if at:
        assert caught.value.solution.state.iteration == at - 1  # type: ignore[attr-defined]


def test_a_solver_that_stays_where_it_was_does_not_run_for_ever() -> None:
    class Stays(gf.Anchored):
        def step(self, problem: Any, state: Any) -> Any:
            return state

    with pytest.raises(InvalidArgument, match="iteration is 0 and not 1"):
        solve(solver=Stays())


@pytest.mark.parametrize(
    ("method", "act"),
    [
        ("decode", lambda x: x[:1]),
        ("decode", lambda x: x[0]),
        ("decode", lambda x: None),
        ("decode", list),
        ("decode", lambda x: (255 * x).byte()),
        ("decode", lambda x: x.to(torch.complex64)),
        ("step", lambda x: x[:1]),
        ("step", lambda x: x[..., 1:]),
        ("step", lambda x: (x,)),
        ("step", lambda x: x.long()),
    ],
)
@pytest.mark.parametrize("candidates", [1, 2])
def test_a_wrong_answer_of_a_sampler_is_refused(method: str, act: Any, candidates: int) -> None:
    def wrong(self: Any, *given: Any) -> Any:
        return act(getattr(ToyMixture, method)(self, *given))

    wrong_one = type("Wrong", (ToyMixture,), {method: wrong})(size=6, num_steps=3)
    with pytest.raises(InvalidArgument, match=f"The sampler Wrong returned .* from `{method}`"):
        solve(wrong_one, candidates=candidates)


@pytest.mark.parametrize(
    ("name", "given"), [("num_steps", 0), ("num_steps", 1.5), ("latent_shape", None), ("latent_shape", (-1, 6, 6))]
)
def test_a_sampler_without_steps_or_a_size_is_refused(name: str, given: Any) -> None:
    sampler = mixture()
    odd = type("Odd", (ToyMixture,), {name: property(lambda self: given, lambda self, value: None)})
    with pytest.raises(InvalidArgument, match=f"The sampler Odd has .*{name}="):
        solve(odd(size=6, num_steps=sampler.num_steps))


def test_a_sparse_loss_is_refused() -> None:
    with pytest.raises(InvalidLoss, match="sparse"):
        solve(loss=gf.as_loss(lambda image: image.flatten(1).mean(1).to_sparse(), "thin"))


@pytest.mark.parametrize("error", [MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory.")], ids=repr)
@pytest.mark.parametrize("at", [1, 2])
def test_memory_that_runs_out_while_a_start_is_chosen(error: Exception, at: int) -> None:
    calls: Sequence[None] = []

    def greedy(image: Any) -> Any:
        calls.append(None)  # type: ignore[attr-defined]
        if len(calls) >= at:
            raise error
        return image.flatten(1).mean(1)

    with pytest.raises(OutOfMemory, match="for the pictures alone") as caught:
        solve(loss=gf.as_loss(greedy, "greedy"), candidates=3)
    assert (getattr(caught.value, "solution", None) is None) == (at == 1), "what was chosen before is kept"
    assert isinstance(caught.value, GuideflowError)
