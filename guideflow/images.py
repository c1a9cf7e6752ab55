"""Read images safely, write them with what made them, and lay them out in grids.

Everywhere an image is a float tensor (1, 3, height, width) or (3, height, width), RGB in [0, 1].
"""

from __future__ import annotations

import io
import numbers
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from guideflow._require import count, write_whole
from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.memory import available_bytes

if TYPE_CHECKING:
    from PIL import Image as PILImage

MAX_BYTES: Final = 200 * 2**20
"""Larger files are refused before they are opened."""

# No format whose reader starts another program (EPS) or that is not an image of its own.
_FORMATS: Final = {"AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP"}
_RANGE_TOLERANCE: Final = 1e-3
_PIXEL_BYTES: Final = 32  # of memory while a pixel is decoded, turned to RGB and to float32


def check_image(image: Tensor, *, what: str = "image") -> None:
    """Refuse anything but a batch of RGB images in [0, 1]; image losses call this on what they are given.

    Raises:
        InvalidImage: with the shape or range that was given and the cure.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point():
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise InvalidImage(f"Got {what} of type {kind}. Expected a float tensor; for 0..255 integers type `x / 255`.")
    if image.dim() != 4:
        cure = "Expected (batch, 3, height, width); for a single image type `image[None]`."
        raise InvalidImage(f"Got {what} of shape {tuple(image.shape)}. {cure}")
    if image.shape[1] != 3:
        cure = "image.permute(0, 3, 1, 2)" if image.shape[3] == 3 else "image[:, :3]"
        cure = "image.expand(-1, 3, -1, -1)" if image.shape[1] == 1 else cure
        shape = f"{image.shape[1]} channels, shape {tuple(image.shape)}"
        raise InvalidImage(f"Got {what} with {shape}. Expected 3: type `{cure}`.")
    # What is not finite is not judged here. Both numbers are read at once, because each time waits for the device.
    finite = image.detach().float().nan_to_num(0.5, 0.5, 0.5)
    low, high = torch.stack(finite.aminmax()).tolist() if image.numel() else (0.0, 1.0)
    if low < -_RANGE_TOLERANCE or high > 1 + _RANGE_TOLERANCE:
        cure = "for [-1, 1] type `image / 2 + 0.5`, for 0..255 type `image / 255`"
        raise InvalidImage(f"Got {what} in the range [{low:.3g}, {high:.3g}]. Expected [0, 1]; {cure}.")


def read_image(path: str | os.PathLike[str], size: int | tuple[int, int] | None = None) -> Tensor:
    """Read an image from a file that need not be trusted.

    The orientation tag is applied, transparency is laid over white, and grey, palette, 16-bit, float and CMYK images
    become RGB. Of an animation the first frame is read. White is 1, 255 or 65535 in a float image, the least that fits
    its values (beyond some overshoot), and 4095 in a TIFF of 16 bits without greater ones, as 12-bit cameras write it.
    What is nan becomes black.

    Arguments:
        path: An image in any format that Pillow reads.
        size: Side of a square, or (height, width). The image is cropped to its centre in that proportion, then
            resized. `None` keeps it as it is.

    Returns:
        A float32 tensor (1, 3, height, width) in [0, 1].

    Raises:
        InvalidImage: If the file is missing, empty, truncated, too large or no image.
    """
    from PIL import Image, ImageOps

    path = Path(path)
    _check_file(path)
    with _decoding(path), open_picture(path) as picture:
        pixels, free = picture.width * picture.height, available_bytes(torch.device("cpu"))
        if pixels * _PIXEL_BYTES > free:
            need = f"{pixels / 1e6:.0f} million pixels, which take {pixels * _PIXEL_BYTES / 1e9:.1f} GB to read"
            raise InvalidImage(f"{path} has {need}; {free / 1e9:.1f} GB of memory are free. Give a smaller image.")
        rgb = _over_white(ImageOps.exif_transpose(picture), picture.format)
    if size is not None:
        height, width = (size, size) if isinstance(size, numbers.Integral) else map(int, size)  # type: ignore[arg-type]
        count("size", min(height, width))
        rgb = ImageOps.fit(rgb, (width, height), method=Image.Resampling.LANCZOS)
    return from_pil(rgb)


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Say in a line what a decoder raises."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of images that are large, and then of larger ones raises
        try:
            yield
        except InvalidImage:
            raise
        except UnidentifiedImageError as error:
            raise InvalidImage(f"{path} is not an image that can be read. Give a PNG, JPEG or WebP file.") from error
        except Image.DecompressionBombError as error:
            raise InvalidImage(f"{path} has far too many pixels to be read. Give a smaller image.") from error
        except Exception as error:  # decoders raise many kinds on damaged files: SyntaxError, struct.error, ...
            why = " ".join(str(error).split()) or type(error).__name__
            raise InvalidImage(f"{path} is damaged or cut short ({why}). Save or download it again.") from error


def open_picture(path: Path) -> PILImage.Image:
    """Open a file with Pillow, by no reader that starts another program whatever the file holds."""
    from PIL import Image

    Image.init()
    return Image.open(path, formats=sorted(_FORMATS & Image.OPEN.keys()))


def _check_file(path: Path) -> None:
    try:
        if not path.is_file():
            there = ", but a folder" if path.is_dir() else ""
            raise InvalidImage(f"There is no file {path}{there}. Give the path of an image.")
        size = path.stat().st_size
        path.open("rb").close()
    except OSError as error:
        raise InvalidImage(f"{path} cannot be opened: {error.strerror}.") from error
    if size == 0:
        raise InvalidImage(f"{path} is empty. Save or download it again.")
    if size > MAX_BYTES:
        raise InvalidImage(f"{path} has {size >> 20} MB; at most {MAX_BYTES >> 20} are read. Give a smaller image.")


def _over_white(picture: PILImage.Image, format: str | None = None) -> PILImage.Image:
    """Convert any mode to RGB: wider values by their upper 8 bits, transparency over white."""
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture).astype(np.float32), nan=0, posinf=np.nan, neginf=0)
        highest, slack = np.nanmax(values, initial=0), 1.25 if picture.mode == "F" else 1  # resampled values overshoot
        if picture.mode.startswith("I;16"):
            top = 4095 if format == "TIFF" and 255 < highest <= 4095 else 65535
        else:
            top = next((white for white in (1, 255) if highest <= white * slack), 65535)
        values = np.nan_to_num(values, nan=top)
        picture = Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def from_pil(picture: PILImage.Image) -> Tensor:
    """Turn a Pillow image of any mode into a float32 tensor (1, 3, height, width) in [0, 1].

    Transparency is laid over white.
    """
    return torch.from_numpy(np.array(_over_white(picture))).permute(2, 0, 1)[None].float().div_(255)


def to_pil(image: Tensor) -> PILImage.Image:
    """Turn one image, (1, 3, height, width) or (3, height, width) in [0, 1], into a Pillow image of 8 bits in mode RGB.

    Raises:
        InvalidImage: If the shape or the range is another.
    """
    from PIL import Image

    batch = image[None] if isinstance(image, Tensor) and image.dim() == 3 else image
    check_image(batch)
    if len(batch) != 1:
        raise InvalidImage(f"Got a batch of {len(batch)} images. Expected one; lay out several with `grid(images)`.")
    pixels = (batch[0].detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy()))


def save_image(path: str | os.PathLike[str], image: Tensor, metadata: Mapping[str, str] | None = None) -> Path:
    """Write one image as a PNG, whole or not at all.

    Arguments:
        path: Where to; folders are made. The name must end in `.png`.
        image: (1, 3, height, width) or (3, height, width), in [0, 1].
        metadata: Text to keep in the file, by keyword: what made the image.

    Returns:
        The path.

    Raises:
        InvalidImage: If the image has another shape or range.
        InvalidArgument: If the name does not end in `.png`.
    """
    from PIL.PngImagePlugin import PngInfo

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InvalidArgument(f"Got {path.name!r} to write to. Expected a name that ends in .png.")
    picture, information = to_pil(image), PngInfo()
    for key, value in (metadata or {}).items():
        # Falls back to iTXt beyond Latin-1, which holds no half of a surrogate pair.
        information.add_text(key, value.encode("utf-8", "backslashreplace").decode())
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(content := io.BytesIO(), format="PNG", pnginfo=information)
    write_whole(path, content.getvalue())
    return path


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the text that `save_image` kept in a PNG, by keyword; empty for an image without any."""
    from PIL import Image

    _check_file(Path(path))
    with _decoding(Path(path)), Image.open(path, formats=["PNG"]) as picture:
        return {str(key): str(value) for key, value in getattr(picture, "text", {}).items()}


def grid(images: Tensor, columns: int | None = None, padding: int = 2) -> Tensor:
    """Lay a batch out in rows on white.

    Arguments:
        images: (batch, 3, height, width) in [0, 1].
        columns: Images in a row; all in one row by default.
        padding: White pixels between images and around them.

    Returns:
        One image (1, 3, height, width).

    Raises:
        InvalidArgument: If there is no image, no column or a negative padding.
    """
    check_image(images)
    count("columns", len(images) if columns is None else columns)
    count("padding", padding, low=0)
    blank = images.new_ones(-len(images) % (columns := min(columns or len(images), len(images))), *images.shape[1:])
    framed = F.pad(torch.cat([images, blank]), (0, padding, 0, padding), value=1)
    sheet = framed.view(-1, columns, *framed.shape[1:]).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)[None]
    return F.pad(sheet, (padding, 0, padding, 0), value=1)
