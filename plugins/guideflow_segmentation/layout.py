"""Layouts: maps of class numbers, read from images, tensors and arrays, and drawn for showing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.images import KEPT_PIXELS, open_picture, read_image
from guideflow.losses.vision import PillowImage

if TYPE_CHECKING:
    from PIL import Image as PILImage

Layout: TypeAlias = "str | Path | Tensor | np.ndarray | PillowImage"
"""Path of a PNG, an image of Pillow's, or whole numbers (H, W), (1, H, W) or (1, 1, H, W)."""

Colour = str | Sequence[int]
"""Such as "#ff8000", "orange" or (255, 128, 0)."""

_LOSSLESS = ("PNG", "BMP", "GIF", "PPM", "TIFF")
_ROWS = 64
_NEAR = 60.0  # of 442 between black and white: soft edges stay without a class, shades of one colour are one


def read_layout(given: Layout, colours: Mapping[int, Colour] | None = None, ignore_index: int = 255) -> Tensor:
    """Read a map of class numbers.

    Arguments:
        given: The path of an image, or one of Pillow's, with a palette or of grey values, whose numbers are the
            classes; with `colours` an image in colours; or a tensor or array of whole numbers.
        colours: Colour of each class. A pixel has the class of the nearest colour, or is ignored if none is near, or if
            it is transparent.
        ignore_index: The number of pixels that do not count.

    Returns:
        Class numbers (H, W), int64.

    Raises:
        InvalidImage: If the file cannot be read, or is an image in colours and none are given.
        InvalidArgument: If a tensor or array is not of whole numbers in such a shape, or a colour is none.
    """
    if isinstance(given, str | Path):
        return _from_file(Path(given), colours, ignore_index)
    if isinstance(given, PillowImage):
        return _from_picture(given, "The layout", colours, ignore_index)
    if colours is not None:
        raise InvalidArgument("Got colours= and a layout of numbers. Expected colours= with an image only.")
    values = torch.as_tensor(given)
    if values.is_floating_point() or values.is_complex():
        raise InvalidArgument(f"Got a layout of {values.dtype}. Expected whole numbers: type `layout.long()`.")
    while values.dim() > 2 and values.shape[0] == 1:
        values = values[0]
    if values.dim() != 2 or not values.numel():
        raise InvalidArgument(
            f"Got a layout of shape {tuple(values.shape)}. Expected (H, W), one class for each pixel."
        )
    return values.detach().cpu().long()


def _from_file(path: Path, colours: Mapping[int, Colour] | None, ignore_index: int) -> Tensor:
    check_readable(path)
    with open_picture(path) as picture:
        return _from_picture(picture, str(path), colours, ignore_index)


def check_readable(path: Path) -> None:
    """Refuse a file that is missing, damaged or too large; what its numbers mean as colours is nothing to a layout."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_image(path)


def _from_picture(
    picture: PILImage.Image, name: str, colours: Mapping[int, Colour] | None, ignore_index: int
) -> Tensor:
    if picture.width * picture.height > KEPT_PIXELS:
        raise InvalidImage(f"{name} has more than {KEPT_PIXELS / 1e6:.0f} million pixels. Give a smaller layout.")
    if picture.format not in (*_LOSSLESS, None):  # None was made in memory
        raise InvalidImage(
            f"{name} is a {picture.format}, which blurs the edges of classes. Save the layout as a PNG, or give "
            "the image as reference= to take the layout that the network sees in it."
        )
    if colours is None and picture.mode not in ("1", "L", "P", "I", "I;16"):
        raise InvalidImage(
            f"{name} is an image in colours ({picture.mode}). Expected one with a palette or of grey values whose "
            "numbers are the classes. Type colours={'sky': '#80c0ff', ...} to say which colour is which class."
        )
    try:
        if colours is not None:
            return _from_colours(picture, colours, ignore_index)
        return torch.from_numpy(np.array(picture).astype(np.int64))
    except InvalidArgument:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # Pillow decodes when it is asked for pixels
        raise InvalidImage(f"{name} is damaged or cut short ({error}). Save or download it again.") from error


def _from_colours(picture: PILImage.Image, colours: Mapping[int, Colour], ignore_index: int) -> Tensor:
    if not colours:
        raise InvalidArgument("Got no colours. Expected colours={'sky': '#80c0ff', ...}, one for each class.")
    pixels = np.asarray(picture.convert("RGBA"))
    known = np.array([_rgb(colour) for colour in colours.values()], dtype=np.int32)
    numbers, classes = np.array(list(colours), dtype=np.int64), np.empty(pixels.shape[:2], dtype=np.int64)
    for top in range(0, len(pixels), _ROWS):  # a few rows at a time: of a large layout all would take gigabytes
        rows = pixels[top : top + _ROWS].astype(np.int32)
        distance = np.stack([np.square(rows[..., :3] - colour).sum(-1) for colour in known])
        off = (distance.min(0) > _NEAR**2) | (rows[..., 3] < 128)
        classes[top : top + _ROWS] = np.where(off, ignore_index, numbers[distance.argmin(0)])
    return torch.from_numpy(classes)


def _rgb(colour: Colour) -> tuple[int, ...]:
    from PIL import ImageColor

    try:
        rgb = ImageColor.getrgb(colour)[:3] if isinstance(colour, str) else tuple(int(value) for value in colour)
    except (ValueError, TypeError):
        rgb = ()
    if len(rgb) != 3 or min(rgb) < 0 or max(rgb) > 255:
        raise InvalidArgument(f"Got the colour {colour!r}. Expected '#rrggbb', a name, or three numbers from 0 to 255.")
    return rgb


def resize_layout(layout: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map of classes (H, W) by taking the nearest pixel; classes are never mixed."""
    height, width = layout.shape
    if (height, width) == size:
        return layout
    rows, columns = (
        ((torch.arange(new) + 0.5) * old / new).long().clamp_max(old - 1)
        for old, new in zip((height, width), size, strict=True)
    )
    return layout[rows.to(layout.device)][:, columns.to(layout.device)]


def draw_layout(layout: Tensor, ignore_index: int = 255) -> Tensor:
    """Draw a map of classes (H, W) in colours, (3, H, W) in [0, 1]: those of VOC; ignored pixels are white.

    The colour of class c is spread over the bits of red, green and blue, from the highest down.
    """
    values = layout.detach().cpu().long()
    channels = []
    for channel in range(3):
        bits = [((values >> (3 * place + channel)) & 1) << (7 - place) for place in range(8)]
        channels.append(torch.stack(bits).sum(0))
    drawn = torch.stack(channels).float() / 255
    return torch.where(values == ignore_index, torch.ones(()), drawn)
