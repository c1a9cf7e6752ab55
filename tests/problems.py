"""Samplers and losses with closed-form answers, shared by the tests."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import guideflow as gf
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


def run(problem: gf.Problem, solver: gf.Solver[Any], iterations: int) -> list[gf.State]:
    states = []
    for state in gf.iterate(problem, solver):
        states.append(state)
        if state.iteration == iterations:
            return states
    raise AssertionError("unreachable")
