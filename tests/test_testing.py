"""The conformance checks: what is right passes all of them, and each fault is caught by the checks made for it."""

from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch
from torch import nn

import guideflow as gf
from guideflow import registry
from guideflow.errors import InvalidArgument
from guideflow.testing import (
    ConformanceFailure,
    check_loss,
    check_sampler,
    check_solver,
    fake_distribution,
    parametrize_loss,
    parametrize_sampler,
    parametrize_solver,
)
from guideflow.testing._run import troubleshooting
from guideflow.testing.losses import CHECKS as LOSS_CHECKS
from guideflow.testing.samplers import CHECKS as SAMPLER_CHECKS
from guideflow.testing.solvers import CHECKS as SOLVER_CHECKS
from guideflow.toy import ToyLinear, ToyMixture


def caught(check, make, **kwargs):
    """Names of the checks that failed, in the order of the report."""
    with pytest.raises(ConformanceFailure) as failure:
        check(make, **kwargs)
    return set(failure.value.failures)


@pytest.mark.parametrize("check", [*LOSS_CHECKS, *SAMPLER_CHECKS, *SOLVER_CHECKS], ids=lambda check: check.__name__)
def test_every_check_says_what_to_do(check):
    assert troubleshooting(check).endswith((".", "`"))


# Losses


class Contrast(gf.Loss):
    """Rewards horizontal contrast."""

    def __call__(self, image):
        gf.check_image(image)
        return -(image.float().diff(dim=-1) ** 2).flatten(1).mean(1)


@parametrize_loss(Contrast)
def test_a_right_loss_conforms(check):
    check()


class Scalar(Contrast):
    def __call__(self, image):
        return super().__call__(image).mean()


class Infinite(Contrast):
    def __call__(self, image):
        return super().__call__(image) / torch.zeros(len(image))


class Counting(Contrast):
    """Gives another number at each call."""

    calls = 0

    def __call__(self, image):
        self.calls += 1
        return super().__call__(image) + self.calls


class Coupled(Contrast):
    def __call__(self, image):
        value = super().__call__(image)
        return value + value.mean() / 2


class InPlace(Contrast):
    def __call__(self, image):
        value = super().__call__(image)
        with torch.no_grad():
            image *= 0.9
        return value


class WrongGradient(Contrast):
    def __call__(self, image):
        value = super().__call__(image)
        return value.detach() + 3 * (value - value.detach())


class Ascending(Contrast):
    """Its gradient points the wrong way."""

    def __call__(self, image):
        value = super().__call__(image)
        return 2 * value.detach() - value


class HalfOnly(Contrast):
    def __call__(self, image):
        gf.check_image(image)
        return -(image.diff(dim=-1) ** 2).flatten(1).mean(1)


class Trainable(Contrast):
    def __init__(self):
        self.network = nn.Linear(2, 2)


class Careless(Contrast):
    def __call__(self, image):
        return -(image.float().diff(dim=-1) ** 2).flatten(1).mean(1)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (Scalar, {"shape", "batch-independent", "gradient"}),
        (Infinite, {"finite", "batch-independent", "gradient", "descent", "half-precision"}),
        (Counting, {"deterministic", "batch-independent", "gradient", "descent", "half-precision"}),
        (Coupled, {"batch-independent"}),
        (InPlace, {"input-unchanged", "deterministic", "batch-independent", "descent"}),
        (WrongGradient, {"gradient"}),
        (Ascending, {"gradient", "descent"}),
        (HalfOnly, {"half-precision"}),
        (Trainable, {"frozen"}),
        (Careless, {"refuses-bad-images"}),
    ],
)
def test_a_wrong_loss_is_caught(loss, expected):
    assert caught(check_loss, loss) == expected


# Samplers


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


# Solvers


@pytest.mark.parametrize("name", ["anchored", "unanchored", "noise-descent", "flowgrad"])
def test_the_built_in_solvers_conform(name):
    check_solver(partial(gf.load_solver, name))


@parametrize_solver(gf.Anchored)
def test_solver_checks_can_be_parametrised(check):
    check()


@dataclass(frozen=True)
class Simple(gf.Solver):
    """Gradient descent on the controls, right in every respect; the wrong ones below change one thing."""

    scale: float = 0.01

    def init(self, problem):
        controls = torch.zeros(problem.sampler.num_steps, *problem.z0.shape, dtype=problem.z0.dtype)
        return gf.State(0, problem.z0, controls, problem.rollout(problem.z0, controls))

    def update(self, state):
        return state.controls - self.scale * state.rollout.gradients[1:]

    def step(self, problem, state):
        controls = self.update(state)
        return gf.State(state.iteration + 1, state.z0, controls, problem.rollout(state.z0, controls))


def test_a_right_solver_conforms():
    check_solver(Simple)


@dataclass
class Thawed(gf.Solver):
    """Not frozen."""

    init, step, update, scale = Simple.init, Simple.step, Simple.update, 0.01


class Perturbed(Simple):
    def init(self, problem):
        state = super().init(problem)
        return replace(state, rollout=problem.rollout(state.z0 + 0.01, state.controls))


class Uncounted(Simple):
    def step(self, problem, state):
        return replace(super().step(problem, state), iteration=state.iteration)


class Stale(Simple):
    def step(self, problem, state):
        return replace(super().step(problem, state), rollout=state.rollout)


class Mutating(Simple):
    def step(self, problem, state):
        state.controls.sub_(self.scale * state.rollout.gradients[1:])
        return gf.State(state.iteration + 1, state.z0, state.controls, problem.rollout(state.z0, state.controls))


@dataclass(frozen=True)
class Remembering(Simple):
    """Hides momentum on itself."""

    memory: list = field(default_factory=lambda: [0.0])

    def update(self, state):
        self.memory[0] = 0.5 * self.memory[0] + state.rollout.gradients[1:]
        return state.controls - self.scale * self.memory[0]


class Listing(Simple):
    """Remembers what cannot be saved."""

    def step(self, problem, state):
        return replace(super().step(problem, state), memory={"controls": [state.controls]})


class Uphill(Simple):
    def update(self, state):
        return state.controls + self.scale * state.rollout.gradients[1:]


class BatchNorm(Simple):
    def update(self, state):
        return state.controls - self.scale * state.rollout.gradients[1:] / state.rollout.gradients.norm().clamp(min=1)


class Restless(Simple):
    def update(self, state):
        return super().update(state) - 1e-6 * state.rollout.gradients[1:].sign()


class Demanding(Simple):
    def step(self, problem, state):
        problem.sampler.predict(state.z0, problem.sampler.schedule[0], problem.condition)
        return super().step(problem, state)


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (Thawed, {"frozen"}),
        (Perturbed, {"init-is-unguided", "scale-zero"}),
        (Uncounted, {"counts"}),
        (Stale, {"rollout-belongs-to-state", "improves"}),
        (Mutating, {"pure"}),
        (Remembering, {"pure", "batch-independent", "nonfinite-stays-alone", "resumes"}),
        (Listing, {"pure", "resumes"}),
        (Uphill, {"improves"}),
        (BatchNorm, {"batch-independent", "nonfinite-stays-alone"}),
        (Restless, {"scale-zero"}),
        (Demanding, {"plain-sampler"}),
    ],
)
def test_a_wrong_solver_is_caught(solver, expected):
    assert caught(check_solver, solver) == expected


# Reports


def test_all_failures_are_reported_together_with_cures():
    class Bad(Trainable):
        def __call__(self, image):
            return (image**2).flatten(1).mean(1)

    with pytest.raises(ConformanceFailure) as failure:
        check_loss(Bad)
    text = str(failure.value)
    assert text.startswith("3 of 10 checks failed.")
    assert "requires_grad_(False)" in text and "check_image" in text and "image.float()" in text


def test_an_expected_failure_needs_a_reason_and_must_fail():
    check_loss(Careless, expected_failures={"refuses-bad-images": "takes any picture"})
    assert caught(check_loss, Contrast, expected_failures={"frozen": "trains on"}) == {"frozen"}
    with pytest.raises(InvalidArgument, match="has no reason"):
        check_loss(Contrast, expected_failures={"frozen": " "})
    with pytest.raises(InvalidArgument, match="no check named 'frosen'"):
        check_loss(Contrast, expected_failures={"frosen": "typo"})


SLOW_PLUGIN = """
import guideflow as gf
import {imported}

class Dark(gf.Loss):
    def __call__(self, image):
        gf.check_image(image)
        return image.float().flatten(1).mean(1)

@gf.hookimpl
def guideflow_losses():
    return {{"slow-dark": Dark}}
"""


@pytest.mark.parametrize(("imported", "failures"), [("json", set()), ("scipy.optimize", {"light-import"})])
def test_a_module_that_imports_something_slow_is_caught(imported, failures, tmp_path, monkeypatch):
    name = f"plugin_with_{imported.partition('.')[0]}"
    fake_distribution(tmp_path, f"slow = {name}", SLOW_PLUGIN.format(imported=imported))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # for the process that imports the plugin by itself
    registry.refresh()
    try:
        try:
            check_loss(lambda: gf.load_loss("slow-dark"), name="slow-dark")
            found = set()
        except ConformanceFailure as error:
            found = set(error.failures)
        assert found == failures
    finally:
        registry.refresh()


class OnePixel(gf.Loss):
    """All of its gradient is at one pixel, so that a step of any size but a small one leaves the pictures' range."""

    def __call__(self, image):
        gf.check_image(image)
        return (image.float()[:, 0, 0, 0] - 0.5).square()


def test_finite_differences_stay_within_the_range_of_pictures():
    check_loss(OnePixel)
