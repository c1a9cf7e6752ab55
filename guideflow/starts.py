"""Pictures that a solve begins at, and their masks: read, checked and brought to the sampler's size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from guideflow.errors import InvalidImage
from guideflow.losses.vision import read_images

Size = tuple[int, int]


def read_starts(given: Any, size: Size) -> tuple[Tensor, list[Size]]:
    """Read start pictures of a sampler's proportions.

    Arguments:
        given: One or several, as `read_images` takes them.
        size: (height, width) of the sampler.

    Returns:
        (N, 3, *size) in [0, 1], and the size of each as it was given.

    Raises:
        InvalidImage: If one cannot be read, or has other proportions.
    """
    images = read_images(given, what="start")
    for image in images:
        height, width = image.shape[1:]
        if abs(height * size[1] - width * size[0]) >= max(size):
            raise InvalidImage(
                f"Got a start picture of {width}x{height} pixels; the sampler draws {size[0]} by {size[1]} (height by "
                f"width). Crop it, start=gf.images.fit(picture, {size}, 'crop'), or have its edges drawn out, "
                "'pad'; a mask likewise (--fit crop or --fit pad)."
            )
    sizes = [(one.shape[1], one.shape[2]) for one in images]
    return torch.cat([_resize(image[None], size) for image in images]), sizes


def read_masks(given: Any, sizes: list[Size], size: Size) -> Tensor:
    """Read masks, each of the size of its picture or of the sampler.

    Arguments:
        given: One or several pictures, of which the mean of the colours counts; or tensors (H, W), (1, H, W) or
            (N, 1, H, W), in [0, 1] or bool.
        sizes: Of the start pictures as they were given.
        size: (height, width) of the sampler.

    Returns:
        (N, 1, *size) in [0, 1].

    Raises:
        InvalidImage: If one cannot be read, is black all over or has another size.
    """
    masks = read_images(_with_colours(given), what="mask")
    if not all(mask.any() for mask in masks):
        raise InvalidImage("Got a mask that is black all over, so nothing may change. White is what may change.")
    if len(masks) > 1 and len(sizes) > 1 and len(masks) != len(sizes):
        raise InvalidImage(f"Got {len(masks)} masks for {len(sizes)} start pictures. Give one, or one for each.")
    for i, mask in enumerate(masks):
        fitting = {size, sizes[i] if len(sizes) > 1 and len(masks) > 1 else sizes[0]}
        if (found := tuple(mask.shape[1:])) not in fitting:
            expected = " or ".join(f"{width}x{height}" for height, width in sorted(fitting))
            raise InvalidImage(
                f"Got a mask of {found[1]}x{found[0]} pixels. Expected the size of the start picture, {expected}."
            )
    return torch.cat([_resize(mask.mean(0)[None, None], size) for mask in masks])


def _with_colours(given: Any) -> Any:
    """Give tensors of one channel, or of truth values, three; lists likewise."""
    if isinstance(given, list | tuple):
        return [_with_colours(one) for one in given]
    if not isinstance(given, Tensor):
        return given
    mask = given.float() if given.dtype == torch.bool else given
    mask = mask[None] if mask.dim() == 2 else mask
    return mask.expand(*mask.shape[:-3], 3, *mask.shape[-2:]) if mask.dim() in (3, 4) and mask.shape[-3] == 1 else mask


def _resize(image: Tensor, size: Size) -> Tensor:
    if tuple(image.shape[2:]) == size:
        return image
    return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
