"""What every image loss asks of the pictures it is given, and what is asked of its answer."""

import torch
from torch import Tensor

from guideflow.errors import InvalidImage, InvalidLoss

_RANGE_TOLERANCE = 1e-3


def check_image(image: Tensor, *, what: str = "image") -> None:
    """Refuse anything but a batch of RGB pictures in [0, 1]; image losses call this on what they are given.

    Raises:
        InvalidImage: with the shape or range that was given and the cure.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point():
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise InvalidImage(f"Got {what} of type {kind}. Expected a float tensor; for 0..255 integers type `x / 255`.")
    if image.dim() != 4:
        raise InvalidImage(
            f"Got {what} of shape {tuple(image.shape)}. Expected (batch, 3, height, width); "
            "for a single picture type `image[None]`."
        )
    if image.shape[1] != 3:
        cure = "image.permute(0, 3, 1, 2)" if image.shape[3] == 3 else "image[:, :3]"
        cure = "image.expand(-1, 3, -1, -1)" if image.shape[1] == 1 else cure
        raise InvalidImage(
            f"Got {what} with {image.shape[1]} channels, shape {tuple(image.shape)}. Expected 3: type `{cure}`."
        )
    if not image.numel():
        return
    # What is not finite is not judged here. Both numbers are read at once, because each time waits for the device.
    low, high = torch.stack(image.detach().float().nan_to_num(0.5, 0.5, 0.5).aminmax()).tolist()
    if low < -_RANGE_TOLERANCE or high > 1 + _RANGE_TOLERANCE:
        raise InvalidImage(
            f"Got {what} in the range [{low:.3g}, {high:.3g}]. Expected [0, 1]; "
            "for [-1, 1] type `image / 2 + 0.5`, for 0..255 type `image / 255`."
        )


def checked_value(value: object, name: str, image: Tensor) -> Tensor:
    """Return what a loss returned, in the dtype of the images, or refuse all but one differentiable number per image.

    Raises:
        InvalidLoss: with the name of the loss, what it returned and the cure.
    """
    batch = len(image)
    if not isinstance(value, Tensor):
        raise InvalidLoss(
            f"Loss '{name}' returned a {type(value).__name__}. Expected a tensor of shape ({batch},): "
            "one number per image."
        )
    if value.shape != (batch,):
        cure = (
            "Return one number per image, for example `.flatten(1).mean(1)` instead of `.mean()`."
            if value.dim() == 0
            else "Reduce every dimension but the first, for example with `.flatten(1).mean(1)`."
        )
        raise InvalidLoss(
            f"Loss '{name}' returned shape {tuple(value.shape)} for {batch} images. Expected ({batch},). {cure}"
        )
    if not value.is_floating_point():
        raise InvalidLoss(f"Loss '{name}' returned {value.dtype}. Expected a differentiable floating-point tensor.")
    if torch.is_grad_enabled() and image.requires_grad and not value.requires_grad:
        raise no_gradient(name)
    return value.to(image.dtype)


def no_gradient(name: str) -> InvalidLoss:
    """Return the error for a loss that the images do not reach."""
    return InvalidLoss(
        f"Loss '{name}' has no gradient with respect to the images. Expected a differentiable loss: remove "
        "`.detach()`, `.item()`, `.numpy()` and `torch.no_grad()` from it, or log it only, with `0 * loss`."
    )
