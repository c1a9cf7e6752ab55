"""What every loss must do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from guideflow import registry
from guideflow.testing._run import (
    Check,
    parametrize,
    require,
    require_close,
    require_gradient,
    require_light_import,
    run,
    trainable,
)


@dataclass(frozen=True)
class Case:
    """A fresh loss, the images it is tried on, and its name if it is to be loaded by name."""

    loss: Callable[[Tensor], Any]
    images: Tensor
    name: str | None


def check_loss(
    make: Callable[[], Callable[[Tensor], Any]],
    *,
    images: Tensor | None = None,
    image_size: int = 64,
    name: str | None = None,
    expected_failures: Mapping[str, str] = {},
) -> None:
    """Run every check of a loss and report all failures together.

    Arguments:
        make: Makes the loss; called once per check.
        images: At least two images (batch, 3, height, width) on which the loss means something, such as faces.
            By default smooth random ones.
        image_size: Side of the default images.
        name: The name under which the plugin offers the loss; given, loading by name is checked too.
        expected_failures: Reason by name of a check that is known to fail.

    Raises:
        ConformanceFailure: Naming each failed check, what it found and what to do.
    """
    run(_checks(name), partial(_prepare, make, images, image_size, name), expected_failures)


def parametrize_loss(
    make: Callable[[], Callable[[Tensor], Any]],
    *,
    images: Tensor | None = None,
    image_size: int = 64,
    name: str | None = None,
    expected_failures: Mapping[str, str] = {},
) -> Any:
    """Return a pytest mark that gives a test each check of a loss as its argument `check`.

    Arguments are those of [`check_loss`][guideflow.testing.losses.check_loss].
    """
    return parametrize(_checks(name), partial(_prepare, make, images, image_size, name), expected_failures)


def _prepare(
    make: Callable[[], Callable[[Tensor], Any]], images: Tensor | None, image_size: int, name: str | None
) -> Case:
    if images is None:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(3, 3, 8, 8, generator=generator)
        # Away from 0 and 1, so that small steps in any direction are images still.
        smooth = torch.nn.functional.interpolate(coarse, image_size, mode="bicubic", align_corners=False)
        images = 0.15 + 0.7 * smooth.clamp(0, 1)
    return Case(make(), images.clone(), name)


def check_shape(case: Case) -> None:
    """The loss returns one number per image, for a batch and for a single image.

    Troubleshooting: reduce every dimension but the first, as in `.flatten(1).mean(1)`.
    """
    for count in (len(case.images), 1):
        value = case.loss(case.images[:count])
        require(isinstance(value, Tensor), f"got a {type(value).__name__}, not a tensor")
        require(value.shape == (count,), f"got shape {tuple(value.shape)} for {count} images, not ({count},)")


def check_finite(case: Case) -> None:
    """The loss is finite on ordinary images.

    Troubleshooting: look for a division by a norm or a variance that can be zero, or a logarithm.
    """
    value = case.loss(case.images)
    require(bool(torch.isfinite(value).all()), f"got {value.tolist()}")


def check_deterministic(case: Case) -> None:
    """The same images give the same numbers.

    Troubleshooting: call `.eval()` on networks; draw random numbers once, in `__init__`, from a seeded generator.
    """
    first, second = (case.loss(case.images).detach().clone() for _ in range(2))
    require(torch.equal(first, second), f"got {first.tolist()}, then {second.tolist()}")


def check_batch_independent(case: Case) -> None:
    """The number of an image does not depend on the other images of the batch.

    Troubleshooting: no batch normalisation in training mode, and no mean, norm or sort over the batch dimension.
    """
    together = case.loss(case.images).detach()
    alone = torch.cat([case.loss(image[None]).detach().reshape(-1) for image in case.images])
    require_close(together, alone, "in a batch and alone", 1e-3)
    images = case.images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(case.loss(images)[0], images)
    require(not gradient[1:].any(), "the number of image 0 has a gradient on the other images")


def check_input_unchanged(case: Case) -> None:
    """The loss does not write into the images it is given.

    Troubleshooting: replace operations that end in an underscore, `+=` and assignments to slices.
    """
    before = case.images.clone()
    case.loss(case.images)
    require(torch.equal(before, case.images), "the images were changed in place")


def check_gradient(case: Case) -> None:
    """The gradient agrees with finite differences.

    Troubleshooting: detect and choose without gradient, but crop and embed with; no `.detach()`, `.round()` or numpy
    between the images and the number.
    """
    require_gradient(case.loss, case.images, "the loss", bounds=(-1e-3, 1 + 1e-3))


def check_descent(case: Case) -> None:
    """A small step down the gradient lowers the loss of every image.

    Troubleshooting: lower must mean better; a similarity has to be turned into a loss, as `1 - similarity`.
    """
    images = case.images.clone().requires_grad_()
    before = case.loss(images)
    (gradient,) = torch.autograd.grad(before.sum(), images)
    unit = gradient / torch.linalg.vector_norm(gradient.flatten(1), dim=1).view(-1, 1, 1, 1)
    with torch.no_grad():
        after = [case.loss((images - step * unit).clamp(0, 1)) for step in (0.3, 0.1, 0.03, 0.01)]
    require(bool((torch.stack(after).amin(0) < before).all()), f"from {before.tolist()} no step led lower")


def check_half_precision(case: Case) -> None:
    """Images in half precision give a float32 number, close to the true one.

    Troubleshooting: begin with `image = image.float()`.
    """
    exact = case.loss(case.images).detach()
    for dtype in (torch.float16, torch.bfloat16):
        value = case.loss(case.images.to(dtype)).detach()
        require(value.dtype == torch.float32, f"{dtype} images gave {value.dtype}, not float32")
        difference = (value - exact).abs().max().item()
        require(difference <= 0.1 * max(1.0, exact.abs().max().item()), f"{dtype} images are off by {difference:.3g}")


def check_frozen(case: Case) -> None:
    """No parameter asks for a gradient.

    Troubleshooting: call `.requires_grad_(False)` on the network when it is loaded.
    """
    found = trainable(case.loss)
    require(not found, f"these ask for gradients: {', '.join(found[:5])}")


def check_refuses_bad_images(case: Case) -> None:
    """Images with one channel or with values beyond [0, 1] are refused with a ValueError.

    Troubleshooting: begin with `guideflow.images.check_image(image)`.
    """
    for what, bad in {"one channel": case.images[:, :1], "values up to 255": case.images * 255}.items():
        try:
            case.loss(bad)
        except ValueError:
            continue
        raise AssertionError(f"images with {what} were accepted")


def check_loads_by_name(case: Case) -> None:
    """The registry finds the loss by its name.

    Troubleshooting: write `NAME = "module"` under `[project.entry-points.guideflow]` and install the package again.
    """
    require(callable(registry.find("loss", str(case.name)).entry.resolve()), "what the hook returned is not callable")


def check_light_import(case: Case) -> None:
    """The plugin's module imports nothing slow.

    Troubleshooting: import such packages inside the function that needs them, with `guideflow.require`.
    """
    require_light_import("loss", str(case.name))


CHECKS: tuple[Check, ...] = (
    check_shape,
    check_finite,
    check_deterministic,
    check_batch_independent,
    check_input_unchanged,
    check_gradient,
    check_descent,
    check_half_precision,
    check_frozen,
    check_refuses_bad_images,
)
"""The checks of every loss."""


def _checks(name: str | None) -> tuple[Check, ...]:
    return CHECKS if name is None else (*CHECKS, check_loads_by_name, check_light_import)
