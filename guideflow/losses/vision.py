"""What losses that look through a network have in common: reading references, preparing pictures, frozen networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.images import check_image, read_image

Picture = str | Path | Tensor
"""Path of a picture, or a tensor (3, H, W) or (1, 3, H, W) in [0, 1]."""

Pictures = Picture | Sequence[Picture]
"""One picture or several; a tensor (N, 3, H, W) is N of them."""


def read_pictures(given: Pictures, *, what: str = "reference") -> tuple[Tensor, ...]:
    """Read pictures from files or tensors.

    Arguments:
        given: One or several.
        what: What they are called in messages.

    Returns:
        At least one float32 or float64 tensor (3, H, W) in [0, 1]; sizes may differ.

    Raises:
        InvalidImage: If there is none, or one cannot be read or is no RGB picture in [0, 1].
    """
    several = [given] if isinstance(given, str | Path | Tensor) else list(given)
    pictures: list[Tensor] = []
    for one in several:
        if isinstance(one, Tensor):
            batch = one[None] if one.dim() == 3 else one
            check_image(batch, what=what)
            batch = batch.detach()
            pictures += (batch if batch.dtype == torch.float64 else batch.float()).unbind()
        else:
            pictures += read_image(one).unbind()
    if not pictures:
        raise InvalidImage(f"Got no picture as {what}. Expected at least one: type {what}='picture.png'.")
    return tuple(pictures)


@dataclass(frozen=True)
class Preparation:
    """How a network wants its pictures: one preparation for references and for what is generated.

        y = (resize(x) - mean) / std,    x in [0, 1]

    Arguments:
        size: (height, width) of the network's pictures, or None to leave sizes as they are.
        mean: For each of red, green and blue, for pictures in [0, 1].
        std: The same.
        interpolation: "bilinear" or "bicubic"; both smooth when they shrink, as Pillow does.
        crop: Keep the proportions and crop to the middle, instead of stretching the picture to the size.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: str = "bilinear"
    crop: bool = False

    def __call__(self, image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Prepare pictures (B, 3, H, W) in [0, 1]; half precision ends here."""
        image = image.to(dtype)
        if self.size is not None:
            image = resize(image, self.size, self.interpolation, self.crop)
        mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (image - mean) / std

    def changed(
        self,
        size: int | Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> Preparation:
        """Return it with what is given in place of its own.

        Raises:
            InvalidArgument: If a size is not positive, or mean or std are not three numbers, or a std is not positive.
        """
        side = (size, size) if isinstance(size, int) else None if size is None else tuple(size)
        if side is not None and (len(side) != 2 or min(side) < 1):
            raise InvalidArgument(f"Got size={size!r}. Expected the side of a square, or (height, width).")
        return Preparation(
            self.size if side is None else (int(side[0]), int(side[1])),
            self.mean if mean is None else _triple("mean", mean),
            self.std if std is None else _triple("std", std, positive=True),
            self.interpolation,
            self.crop,
        )


def resize(image: Tensor, size: tuple[int, int], interpolation: str = "bilinear", crop: bool = False) -> Tensor:
    """Resize pictures with gradient, without aliasing; pictures that have the size come back as they are.

    Arguments:
        image: (B, 3, H, W).
        size: (height, width).
        interpolation: "bilinear" or "bicubic".
        crop: Keep the proportions and crop to the middle.

    Returns:
        (B, 3, height, width).
    """
    height, width = image.shape[-2:]
    if (height, width) == size:
        return image
    wanted = size
    if crop:
        scale = max(size[0] / height, size[1] / width)
        wanted = (max(size[0], int(height * scale)), max(size[1], int(width * scale)))  # rounded as torchvision does
    image = F.interpolate(image, wanted, mode=interpolation, antialias=True)
    top, left = round((wanted[0] - size[0]) / 2), round((wanted[1] - size[1]) / 2)
    return image[..., top : top + size[0], left : left + size[1]]


def freeze(network: nn.Module, device: str | torch.device = "cpu") -> nn.Module:
    """Make a network ready to look through: on its device, evaluating, without gradients, in float32 at least.

    Arguments:
        network: Changed in place. One in float64 stays so.
        device: Where it runs.

    Returns:
        The network.
    """
    network = network.to(device).eval().requires_grad_(False)
    return network if precision(network) == torch.float64 else network.float()


def precision(network: nn.Module) -> torch.dtype:
    """Tell in which precision a network computes: float64 if its weights are, else float32."""
    return torch.float64 if any(one.dtype == torch.float64 for one in network.parameters()) else torch.float32


def one_of(name: str, given: object, known: Sequence[str]) -> None:
    """Refuse an option that is none of the known words.

    Raises:
        InvalidArgument: Listing them.
    """
    if given not in known:
        raise InvalidArgument(f"Got {name}={given!r}. Expected one of: {', '.join(map(repr, known))}.")


def _triple(name: str, given: Sequence[float], positive: bool = False) -> tuple[float, float, float]:
    values = tuple(float(value) for value in given)
    if len(values) != 3 or (positive and min(values) <= 0):
        kind = "positive numbers" if positive else "numbers"
        raise InvalidArgument(f"Got {name}={given!r}. Expected three {kind}, for red, green and blue in [0, 1].")
    return values[0], values[1], values[2]
