"""Samplers and losses with closed-form answers, shared by the tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import guideflow as gf
from guideflow.solvers import by_image
from guideflow.storage import flatten
from guideflow.testing import ConformanceFailure
from guideflow.toy import ToyLinear, ToyMixture

SOLVERS = {
    "anchored": gf.Anchored(scale=2.0),
    "anchored-fixed": gf.Anchored(scale=0.02, anchor="fixed"),
    "unanchored": gf.Unanchored(scale=0.5),
    "noise-descent": gf.NoiseDescent(),
    "noise-descent-options": gf.NoiseDescent(unit_gradient=True, chi=0.1),
    "flowgrad": gf.FlowGrad(scale=2.0, decay=0.1),
    "flowgrad-noise": gf.FlowGrad(scale=2.0, decay=0.1, noise=0.5),
    "auto": gf.Auto(iterations=4),
    "two-wrappers": gf.TrustRegion(gf.Momentum(gf.FlowGrad(noise=1.0), beta=0.5), start=2.0),
}
WRAPPERS = {
    "annealed": gf.Annealed(gf.FlowGrad(scale=2.0), start=2.0, end=0.5, iterations=4),
    "momentum": gf.Momentum(gf.Anchored(scale=1.0), beta=0.5),
    "polyak": gf.Polyak(gf.FlowGrad(), cap=4.0),
    "trust-region": gf.TrustRegion(gf.FlowGrad(), start=2.0),
    "two-wrappers": SOLVERS["two-wrappers"],
}


class Distance(gf.Loss):
    """Mean squared distance to a picture."""

    name = "distance"

    def __init__(self, target: Tensor) -> None:
        self.target = target

    def __call__(self, image: Any) -> Tensor:
        return (image - self.target.to(image.dtype)).square().flatten(1).mean(1)

    def references(self) -> Sequence[Tensor]:
        return (self.target,) if self.target.dim() == 3 else ()


def smoothness(image: Tensor) -> Tensor:
    return image.diff(dim=-1).square().flatten(1).mean(1)


def linear(num_steps: int = 3, gain: Any = 1.0, **options: Any) -> ToyLinear:
    return ToyLinear(num_steps=num_steps, size=6, gain=gain, dtype="float64", **options)


def mixture(**options: Any) -> ToyMixture:
    return ToyMixture(**{"num_steps": 3, "size": 6, "deviation": 0.4, "dtype": "float64", **options})


def target(sampler: Any) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(sampler.latent_shape, generator=generator, dtype=torch.float64) * 0.6 + 0.2


def problem(sampler: Any, loss: Any = None, seeds: Sequence[int] = (0, 1), **options: Any) -> gf.Problem:
    loss = Distance(target(sampler)) if loss is None else loss
    return gf.Problem(sampler, loss, gf.draw_noise(sampler, seeds), sampler.condition([""] * len(seeds)), **options)


def run(problem: gf.Problem, solver: gf.Solver, iterations: int) -> list[gf.State]:
    states = []
    for state in gf.iterate(problem, solver):
        states.append(state)
        if state.iteration == iterations:
            return states
    raise AssertionError("unreachable")


def solve(sampler: Any, iterations: int, **options: Any) -> gf.Solution:
    """Solve with a loss of two terms."""
    loss = Distance(target(sampler)) + 0.1 * gf.as_loss(lambda x: x.square().flatten(1).mean(1), "size")
    options = {"prompt": ["red", "blue"], "seed": [0, 1], **options}
    return gf.solve(sampler, loss, max_iterations=iterations, **options)


def assert_same(one: gf.Solution, two: gf.Solution) -> None:
    """Compare everything but the clock, bit for bit."""
    for part in ("state", "best", "kept"):
        ours, theirs = flatten(getattr(one, part), part), flatten(getattr(two, part), part)
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name
    assert list(one.history) == list(two.history)
    assert all(torch.equal(column, two.history[name]) for name, column in one.history.items())
    assert one.result == two.result and torch.equal(one.unguided, two.unguided)
    assert one.stats["network_evaluations"] == two.stats["network_evaluations"]


@dataclass(frozen=True)
class Sign(gf.ControlSolver):
    """A third party's, with a memory."""

    name: ClassVar[str] = "test-sign"

    scale: float = 0.02
    inner: gf.ControlSolver = gf.FlowGrad(decay=0.1)  # noqa: RUF009

    def remember(self, problem: gf.Problem, state: gf.State) -> dict[str, Any]:
        return {"mean": by_image(torch.zeros_like(state.controls)), "a/b. c": {"count": state.rollout.loss * 0}}

    def move(self, problem: gf.Problem, state: gf.State) -> gf.Move:
        mean = 0.7 * state.memory["mean"] + 0.3 * by_image(state.rollout.gradients[1:])
        count = state.memory["a/b. c"]["count"] + 1
        return gf.Move.of_controls(-self.scale * by_image(mean).sign(), {"mean": mean, "a/b. c": {"count": count}})


def caught(check: Any, make: Any, **kwargs: Any) -> set[str]:
    """Names of the checks that failed, in the order of the report."""
    with pytest.raises(ConformanceFailure) as failure:
        check(make, **kwargs)
    return set(failure.value.failures)
