"""What losses that look through a network have in common: reading references and preparing images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from guideflow._given import as_size
from guideflow._pictures import upright
from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.images import check_image, from_pil, read_image


@runtime_checkable
class PillowImage(Protocol):
    """An image of Pillow's, by what is asked of it: Pillow is slow to import."""

    mode: str
    info: Any

    def convert(self, mode: str) -> Any:
        """Return the image in another mode."""


ImageSource = str | Path | Tensor | np.ndarray | PillowImage
"""Path of an image; a tensor (3, H, W) or (1, 3, H, W) in [0, 1]; an array (H, W, 3) of 0..255 or in [0, 1]; or an
image of Pillow's."""

ImageSources = ImageSource | Sequence[ImageSource]
"""One image or several; a tensor (N, 3, H, W) is N of them."""

References = ImageSource | Sequence[ImageSource | Sequence[ImageSource]]
"""One image; or a sequence with one entry for each subject: an image, or a sequence of images of that subject."""


def read_images(given: Any, *, what: str = "reference") -> tuple[Tensor, ...]:
    """Read images from files, tensors, arrays or Pillow images.

    Arguments:
        given: One or several. Arrays and Pillow's images are read as files are: grey and transparent ones become RGB.
        what: What they are called in messages.

    Returns:
        At least one float32 or float64 tensor (3, H, W) in [0, 1]; sizes may differ.

    Raises:
        InvalidImage: If there is none, or one cannot be read or is no RGB image in [0, 1].
    """
    images: list[Tensor] = []
    for one in _several(given, what):
        if isinstance(one, str | Path):
            images += read_image(one).unbind()
            continue
        if not isinstance(one, ImageSource):
            raise _no_image(one, what)
        batch = one if isinstance(one, Tensor) else from_array(one, what)
        batch = batch[None] if batch.dim() == 3 else batch
        if batch.is_meta or batch.layout != torch.strided:
            raise InvalidImage(f"Got {what}, a tensor without pixels, or a sparse one. Expected a dense one.")
        check_image(batch, what=what)
        batch = batch.detach()
        if not batch.numel() or not batch.isfinite().all():
            why = "nan or inf in it" if batch.numel() else f"no pixels, shape {tuple(batch.shape)}"
            raise InvalidImage(f"Got {what} with {why}. Expected RGB in [0, 1].")
        images += (batch if batch.dtype == torch.float64 else batch.float()).unbind()
    if not images:
        raise InvalidImage(f"Got no image as {what}. Expected at least one: type {what}='image.png'.")
    return tuple(images)


def read_subjects(reference: Any, same: bool, option: str) -> list[list[tuple[str, Tensor]]]:
    """Read the images of each subject: a name for messages, and (1, 3, H, W) in [0, 1].

    `"ann.png"` is one subject, `["ann.png", "bob.png"]` are two, `[["ann1.png", "ann2.png"], "bob.png"]` are two of
    which the first has two images, and `["ann1.png", "ann2.png"]` with `same` is one with two; `option` is what users
    call that.
    """
    given = _several(reference, "reference")
    each = [_several(entry, "reference") for entry in given]
    if not each or not all(each):
        raise InvalidArgument(
            f"Got {'a subject without images' if each else 'no reference'}. Expected an image, or a list with one "
            "entry for each subject: reference=['ann.png', ['bob1.png', 'bob2.png']]."
        )
    if same and not all(isinstance(entry, ImageSource) for entry in given):
        raise InvalidArgument(
            f"Got lists within the list of references, and {option}=True. Expected one or the other: "
            f"[['ann1.png', 'ann2.png']], or ['ann1.png', 'ann2.png'] with {option}=True."
        )
    if same:
        each = [[source for subject in each for source in subject]]
    return [[_read_one(source, i) for i, source in enumerate(subject)] for subject in each]


def _read_one(source: ImageSource, number: int) -> tuple[str, Tensor]:
    images = read_images(source)
    if len(images) != 1:
        raise InvalidImage(
            f"Got a reference of {len(images)} images. Expected one image for each entry: `list(reference)` for as "
            "many subjects, `[list(reference)]` for as many images of one."
        )
    return str(source) if isinstance(source, str | Path) else f"reference {number}", images[0][None]


def _several(given: Any, what: str) -> list[Any]:
    if isinstance(given, ImageSource):
        return [given]
    # A set has another order in every process, and an open file is a list of lines.
    if isinstance(given, bytes | Mapping | Set) or hasattr(given, "read") or not isinstance(given, Iterable):
        raise _no_image(given, what)
    return list(given)


def _no_image(given: Any, what: str) -> InvalidImage:
    kind = type(given).__name__
    return InvalidImage(f"Got {what} of type {kind}. Expected a path, a tensor, an array or a Pillow image.")


def from_array(given: Any, what: str) -> Tensor:
    """Read an image of Pillow's, or an array (H, W), (H, W, C), (N, H, W, C) or, as tensors are, (N, 3, H, W).

    Arrays are of 0..255, of 0..65535, or float in [0, 1]; C is 1, 3 or 4, the last with transparency.
    """
    if isinstance(given, PillowImage):
        try:
            return from_pil(upright(given))  # type: ignore[arg-type]
        except (OSError, SyntaxError, ValueError) as error:  # Pillow decodes when it is asked for pixels
            raise InvalidImage(f"Got {what}, an image of Pillow's that is damaged or cut short ({error}).") from error
    if given.dtype.name == "uint8" and given.ndim in (3, 4) and given.shape[-1] == 4:  # transparency, as in a file
        from PIL import Image

        several = np.ascontiguousarray(given if given.ndim == 4 else given[None])
        if several.size:
            return torch.cat([from_pil(Image.fromarray(one)) for one in several])
    white = {"uint8": 255, "uint16": 65535, "bool": 1}.get(given.dtype.name)
    if white is None and given.dtype.kind != "f":
        raise InvalidImage(f"Got {what}, an array of {given.dtype}. Expected uint8, uint16, or float in [0, 1].")
    values = torch.from_numpy(np.array(given, dtype=np.float64 if given.dtype == "f8" else np.float32)) / (white or 1)
    if values.dim() == 2:
        values = values[..., None]
    if values.dim() in (3, 4) and values.shape[-1] in (1, 3, 4):
        values = values.movedim(-1, -3)
    if values.dim() in (3, 4) and values.shape[-3] == 4:
        alpha = values[..., 3:, :, :]
        values = values[..., :3, :, :] * alpha + 1 - alpha
    if values.dim() in (3, 4) and values.shape[-3] == 1:
        values = values.expand(*values.shape[:-3], 3, *values.shape[-2:])
    return values


@dataclass(frozen=True)
class Preparation:
    """How a network wants its images: one preparation for references and for what is generated.

        y = (middle(resize(x)) - mean) / std,    x in [0, 1]

    Arguments:
        size: (height, width) to resize images to, or the shorter side alone, which keeps their proportions; None leaves
            them as they are.
        mean: For each of red, green and blue, for images in [0, 1].
        std: The same.
        interpolation: "bilinear" or "bicubic"; both smooth when they shrink, as Pillow does, and stay in [0, 1].
        crop: Keep the proportions and crop to the middle, instead of stretching the image to the size.
        bgr: The network wants blue first.
        middle: (height, width) that is cut out of the middle of the resized image, with black where there is none.
    """

    size: tuple[int, int] | int | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: str = "bilinear"
    crop: bool = False
    bgr: bool = False
    middle: tuple[int, int] | None = None

    def __call__(self, image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Prepare images (B, 3, H, W) in [0, 1]; half precision ends here."""
        image = image.to(dtype)
        if self.size is not None:
            image = resize(image, self.resized(*image.shape[-2:]), self.interpolation, self.crop)
        if self.middle is not None:
            image = cut_middle(image, self.middle)
        mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        prepared = (image - mean) / std
        return prepared.flip(1) if self.bgr else prepared

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of images of a size once they are resized."""
        if not isinstance(self.size, int):
            return self.size or (height, width)
        short = min(height, width)
        return self.size * height // short, self.size * width // short


def given(
    size: int | Sequence[int] | None = None, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> dict[str, Any]:
    """Check what a user gives in place of a preparation's own, for `replace(preparation, **given(size, mean, std))`."""
    side, triples = None if size is None else as_size(size), dict[str, tuple[float, ...]]()
    for name, one in (("mean", mean), ("std", std)):
        if isinstance(one, str | bytes):
            raise InvalidArgument(f"Got {name}={one!r}. Expected three numbers, for red, green and blue in [0, 1].")
        if one is not None:
            triples[name] = tuple(map(float, one))
    for name, values in triples.items():
        if len(values) != 3 or (name == "std" and min(values) <= 0):
            kind = "positive numbers" if name == "std" else "numbers"
            raise InvalidArgument(f"Got {name}={values!r}. Expected three {kind}, for red, green and blue in [0, 1].")
    return triples | ({} if side is None else {"size": side, "middle": None})


def resize(image: Tensor, size: tuple[int, int], interpolation: str = "bilinear", crop: bool = False) -> Tensor:
    """Resize images with gradient, without aliasing; images that have the size come back as they are.

    Arguments:
        image: (B, 3, H, W) in [0, 1].
        size: (height, width).
        interpolation: "bilinear" or "bicubic"; the latter is held to [0, 1], as bytes are.
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
    if interpolation == "bicubic":  # of bytes the rows come first, and do not leave their range either
        image = F.interpolate(image, (height, wanted[1]), mode=interpolation, antialias=True).clamp(0, 1)
    image = F.interpolate(image, wanted, mode=interpolation, antialias=True)
    image = image.clamp(0, 1) if interpolation == "bicubic" else image
    top, left = round((wanted[0] - size[0]) / 2), round((wanted[1] - size[1]) / 2)
    return image[..., top : top + size[0], left : left + size[1]]


def cut_middle(image: Tensor, size: tuple[int, int], fill: float = 0) -> Tensor:
    """Cut (height, width) out of the middle of images (..., H, W), where transformers does, filled up where smaller."""
    extra = [max(0, side - had) for side, had in zip(size, image.shape[-2:], strict=True)]
    if any(extra):
        before = [one // 2 for one in extra]
        sides = (before[1], extra[1] - before[1], before[0], extra[0] - before[0])
        image = F.pad(image, sides, value=fill)
    top, left = ((had - side) // 2 for had, side in zip(image.shape[-2:], size, strict=True))
    return image[..., top : top + size[0], left : left + size[1]]
