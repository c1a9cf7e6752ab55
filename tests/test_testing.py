"""The conformance checks: what is right passes all of them, and each fault is caught by the checks made for it."""

import pytest
import torch
from torch import nn

import guideflow as gf
from guideflow import registry
from guideflow.errors import InvalidArgument
from guideflow.testing import ConformanceFailure, check_loss, fake_distribution, parametrize_loss
from guideflow.testing._run import troubleshooting
from guideflow.testing.losses import CHECKS as LOSS_CHECKS
from guideflow.testing.samplers import CHECKS as SAMPLER_CHECKS
from guideflow.testing.solvers import CHECKS as SOLVER_CHECKS
from problems import caught


@pytest.mark.parametrize("check", [*LOSS_CHECKS, *SAMPLER_CHECKS, *SOLVER_CHECKS], ids=lambda check: check.__name__)
def test_every_check_says_what_to_do(check):
    assert troubleshooting(check).endswith((".", "`"))


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
