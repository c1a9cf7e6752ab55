"""`measurement`: how far pictures are from agreeing with what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Final

import torch
from torch import Tensor, nn

from guideflow._given import one_of
from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.images import check_image
from guideflow.losses.base import Loss
from guideflow.losses.networks import freeze, precision
from guideflow.losses.vision import ImageSource, read_images
from guideflow.types import PerImage
from guideflow_measurement.operators import Blur, Downscale, Greyscale, Mask, Operator

OPERATORS: Final[dict[str, type[Operator]]] = {one.name: one for one in (Downscale, Mask, Blur, Greyscale)}


class Measurement(Loss):
    """Half the squared distance of a measurement of the image to the one that was observed, per pixel of it.

        loss(x) = norm(A(x) - y)^2 / (2 m)

    with A the operator, y what was observed and m the number of its entries. Times m / noise^2 it is, up to a constant,
    the negative log likelihood of the picture where y has white noise of that standard deviation.

    Arguments:
        operator: "downscale", "mask", "blur" or "greyscale"; or any differentiable callable from images (B, 3, H, W) in
            [0, 1] to (B, ...). Of an object with a method `A`, such as a `Physics` of deepinv, that is taken, which is
            the operator without noise. A module is frozen in place.
        observed: What was observed, of one picture: a path or a picture. For a callable also a tensor of the shape
            that it returns, with or without a batch dimension of 1.
        factor: Of "downscale": how many times smaller; 4 by default.
        method: Of "downscale": "bicubic" (default), "bilinear" or "area".
        mask: Of "mask": a picture, white where the image was seen; see `Mask`.
        sigma: Of "blur": standard deviation of the Gaussian in pixels; 2 by default.
        device: Where a module runs.

    Raises:
        InvalidArgument: If options are unknown, lacking or not of this operator; and when called, if what the operator
            returns has another size than what was observed.
        InvalidImage: If a picture cannot be read.

    Source: the data term of every inverse problem; for samplers of few steps, D-Flow (Ben-Hamu et al., 2024).
    Not to be met exactly where y is noisy, or the noise is drawn too: stop at `target_loss=noise**2 / 2`, which is what
    the true picture has.
    """

    name = "measurement"

    def __init__(
        self,
        operator: str | Callable[[Tensor], Tensor],
        observed: ImageSource,
        *,
        factor: int | None = None,
        method: str | None = None,
        mask: ImageSource | None = None,
        sigma: float | None = None,
        device: str = "cpu",
    ) -> None:
        given = {"factor": factor, "method": method, "mask": mask, "sigma": sigma}
        given = {name: value for name, value in given.items() if value is not None}
        self._operator = _make(operator, given)
        self._forward: Callable[[Tensor], Tensor] = self._operator
        self._dtype: torch.dtype | None = None
        if isinstance(operator, nn.Module):
            self._dtype = precision(freeze(operator, device))
        if callable(matrix := getattr(operator, "A", None)):
            self._forward = matrix
        self._references, self._observed = _read(self._operator, observed)

    def __call__(self, image: Tensor) -> PerImage:
        """Return half the mean squared difference of each image, at least 0."""
        check_image(image)
        image = image if image.dtype == torch.float64 else image.float()
        found = self._forward(image if self._dtype is None else image.to(self._dtype))
        if not isinstance(found, Tensor) or found.shape[:1] != image.shape[:1]:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InvalidArgument(
                f"The operator returned {shape} for {len(image)} images. Expected a tensor ({len(image)}, ...), image "
                "by image."
            )
        observed = self._observed
        if observed.shape == (1, *found.shape[1:]):
            observed = observed[0]
        if observed.shape != found.shape[1:]:
            raise self._unfit(image, found, observed)
        return (found - observed.to(found)).abs().square().flatten(1).mean(1) / 2

    def describe(self) -> str:
        """Return one line that says what is minimised."""
        if not isinstance(self._operator, Operator):
            return f"{self.name} ({getattr(self._operator, '__name__', type(self._operator).__name__)})"
        options = {item.name: getattr(self._operator, item.name) for item in fields(self._operator)}  # type: ignore[arg-type]
        shown = [f"{name}={value}" for name, value in options.items() if not isinstance(value, Tensor)]
        return f"{self.name} ({', '.join([self._operator.name, *shown])})"

    def _unfit(self, image: Tensor, found: Tensor, observed: Tensor) -> InvalidArgument:
        """Make the error about an observation that is no measurement of such an image."""
        name = f"operator={self._operator.name!r}" if isinstance(self._operator, Operator) else "The operator"
        made, seen = _shape(found.shape[1:]), _shape(observed.shape)
        sizes = f"{name} makes {made} of an image of {_shape(image.shape[1:])}, and observed is {seen}."
        if found.dim() != 4 or observed.dim() != 3 or not self._references:
            return InvalidArgument(f"{sizes} Expected a tensor of that shape: observed=operator(picture).")
        height, width = image.shape[2:]
        cure = ""
        if isinstance(self._operator, Operator):
            cure = self._operator.cure((height, width), (observed.shape[1], observed.shape[2]))
        size = tuple(found.shape[2:])
        other = f"observed=gf.images.read_image('observed.png', size={size})"
        return InvalidArgument(f"{sizes} Type {f'{cure}, or ' if cure else ''}{other}.")


def _make(operator: Any, given: dict[str, Any]) -> Any:
    """Return the operator of a name, made with the options given; or what was given."""
    if callable(operator) and not isinstance(operator, str | type):
        if given:
            raise InvalidArgument(f"Got {', '.join(given)} beside an operator of your own, which does not read them.")
        return operator
    if not isinstance(operator, str):
        kind = operator.__name__ if isinstance(operator, type) else repr(operator)
        known = f"one of {', '.join(map(repr, OPERATORS))}, or an object that is called with images"
        raise InvalidArgument(f"Got operator={kind}. Expected {known}.")
    one_of("operator", operator, list(OPERATORS))
    own = [item.name for item in fields(OPERATORS[operator])]  # type: ignore[arg-type]
    for name in given.keys() - set(own):
        reads = f"It reads {' and '.join(own)}." if own else "It has no options."
        raise InvalidArgument(f"Got {name}=, which operator={operator!r} does not read. {reads}")
    if "mask" in own and "mask" not in given:
        raise InvalidArgument(
            "operator='mask' needs a mask, white where the picture was seen: mask='mask.png', of the images' size."
        )
    return OPERATORS[operator](**given)


def _read(operator: Any, observed: Any) -> tuple[Sequence[Tensor], Tensor]:
    """Return the picture that was given, if it is one, and the measurement it stands for."""
    if isinstance(observed, Tensor) and not isinstance(operator, Operator):
        y = observed.detach()
        picture = y[0] if y.dim() == 4 and len(y) == 1 else y
        shown = picture.dim() == 3 and len(picture) == 3 and picture.is_floating_point()
        shown = shown and 0 <= float(picture.min()) and float(picture.max()) <= 1
        return ((picture.cpu(),) if shown else ()), y
    if isinstance(observed, Tensor) and observed.dim() in (3, 4) and observed.shape[-3] == 1:
        observed = observed.expand(*observed.shape[:-3], 3, *observed.shape[-2:])  # a grey picture
    pictures = read_images(observed, what="observed")
    if len(pictures) != 1:
        raise InvalidImage(f"Got {len(pictures)} pictures as observed. Expected one; for several, a loss for each.")
    y = operator.observe(pictures[0]) if isinstance(operator, Operator) else pictures[0]
    return pictures, y


def _shape(shape: Sequence[int]) -> str:
    """Write a shape as people do: 128x128 for a picture, channels before where they are not three."""
    inner = "x".join(map(str, shape[1:] if len(shape) == 3 and shape[0] == 3 else shape))
    return inner or "a number"
