"""The conformance checks of samplers: what is right passes, and each mistake is caught by the check that is for it."""

from functools import partial

import pytest
from torch import nn

from guideflow.testing import check_sampler, parametrize_sampler
from guideflow.toy import ToyLinear, ToyMixture
from problems import caught


@parametrize_sampler(ToyMixture, prompts=["a red disc", "green", ""])
def test_a_right_sampler_conforms(check):
    check()


@parametrize_sampler(partial(ToyMixture, family="ancestral"))
def test_a_stochastic_sampler_conforms(check):
    check()


@parametrize_sampler(partial(ToyLinear, image=True, size=6))
def test_a_linear_sampler_conforms(check):
    check()


class NoSize(ToyLinear):
    image_size = property(lambda self: (1, 0), lambda self, value: None)


class HalfStates(ToyMixture):
    def decode(self, z):
        return super().decode(z)[:1]


class Drifting(ToyMixture):
    """Gives another result at each call."""

    calls = 0

    def predict(self, z, row, condition):
        self.calls += 1
        return super().predict(z, row, condition) + 0.02 * self.calls


class CoupledSampler(ToyMixture):
    def predict(self, z, row, condition):
        return super().predict(z - z.mean(0, keepdim=True), row, condition)


class Detached(ToyMixture):
    def predict(self, z, row, condition):
        return super().predict(z.detach(), row, condition)


class TrainableSampler(ToyMixture):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(2, 2)


class InPlaceSampler(ToyMixture):
    def decode(self, z):
        return super().decode(z.data.mul_(0.5) + 0.5 * (z - z.detach()))


class WideRange(ToyMixture):
    def decode(self, z):
        return z


class DeafToNoise(ToyMixture):
    """Claims to be stochastic where its schedule is not."""

    @property
    def stochastic(self):
        return (True, *super().stochastic[1:])

    def __init__(self):
        super().__init__(family="ddim")


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (NoSize, {"attributes"}),
        (HalfStates, {"shapes", "batch-independent", "differentiable"}),
        (Drifting, {"deterministic", "batch-independent", "differentiable"}),
        (CoupledSampler, {"batch-independent", "differentiable"}),
        (Detached, {"differentiable"}),
        (TrainableSampler, {"frozen"}),
        (InPlaceSampler, {"input-unchanged"}),
        (WideRange, {"image-range"}),
        (DeafToNoise, {"noise"}),
    ],
)
def test_a_wrong_sampler_is_caught(sampler, expected):
    assert caught(check_sampler, sampler) == expected
