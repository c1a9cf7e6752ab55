"""Files of pictures that need not be trusted: which are opened, and how any mode becomes RGB of 8 bits."""

from __future__ import annotations

import os
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from guideflow._colours import in_srgb
from guideflow._levels import white
from guideflow._told import shorten
from guideflow.errors import InvalidImage

if TYPE_CHECKING:
    from PIL import Image as PILImage

MAX_PIXELS: Final = {"JPEG": 250_000_000, "MPO": 250_000_000}
"""Larger images are refused before they are decoded. Phones write JPEGs of 200 million; those are decoded at a half."""

MOST_PIXELS: Final = 100_000_000
"""The same for other formats."""

KEPT_PIXELS: Final = 50_000_000
"""Larger images are halved until they have no more."""

MAX_BYTES: Final = 200 * 2**20
"""Larger files are refused before they are opened."""

# No format whose reader starts another program (EPS) or that is not an image of its own.
_FORMATS: Final = {"AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP"}


def as_path(given: object) -> Path:
    """Read the path of a picture, or refuse what holds one in another way."""
    if isinstance(given, str | os.PathLike) and isinstance(path := os.fspath(given), str):
        if re.match(r"(https?|ftp|file|s3):/|data:", path, re.IGNORECASE) and not os.path.exists(path):
            address = shorten(path, 100)
            raise InvalidImage(f"Got the address {address} as a picture. Download it, and give the path of the file.")
        return Path(path)
    raise InvalidImage(
        f"Got a {type(given).__name__} as the path of a picture. Expected text or a Path; a Pillow image becomes a "
        "tensor by `gf.images.from_pil(picture)`, and losses take tensors, arrays and Pillow images as they are."
    )


def check_file(path: Path) -> None:
    """Refuse what is no file, cannot be opened, is empty or too large."""
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


def open_picture(path: Path) -> PILImage.Image:
    """Open a file with Pillow, by no reader that starts another program whatever the file holds."""
    from PIL import Image, UnidentifiedImageError

    Image.init()
    file = path.open("rb")
    try:
        prefix = file.read(16)
        for name in sorted(_FORMATS & Image.OPEN.keys()):
            factory, accept = Image.OPEN[name]
            if accept is not None and accept(prefix) is not True:
                continue
            try:  # as `Image.open` does, without its limit, which is one for the whole process
                file.seek(0)
                picture: PILImage.Image = factory(file, str(path))
                picture._exclusive_fp = True  # type: ignore[attr-defined]  # closes the file with the picture
                return picture
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue
        raise UnidentifiedImageError(f"cannot identify {path}")
    except BaseException:
        file.close()
        raise


_strict, _tolerant, _lock = 0, False, threading.Lock()


@contextmanager
def strictly() -> Iterator[None]:
    """Have Pillow refuse what is cut short, though others in this process have told it to fill that up with grey."""
    from PIL import ImageFile

    global _strict, _tolerant
    with _lock:
        if not _strict:
            _tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        _strict += 1
    try:
        yield
    finally:
        with _lock:
            _strict -= 1
            if not _strict:
                ImageFile.LOAD_TRUNCATED_IMAGES = _tolerant


def check_pixels(picture: PILImage.Image, path: Path) -> None:
    """Refuse a picture that would take too long to decode."""
    most, pixels = MAX_PIXELS.get(picture.format or "", MOST_PIXELS), picture.width * picture.height
    if pixels > most:
        sizes = f"{pixels / 1e6:.0f} million pixels; at most {most / 1e6:.0f} million are read"
        raise InvalidImage(f"{path} has {sizes}. Give a smaller image.")


def halvings(picture: PILImage.Image) -> int:
    """Return the power of 2 by which the sides of a picture are too long."""
    factor = 1
    while picture.width * picture.height > KEPT_PIXELS * factor**2:
        factor *= 2
    return factor


def small_enough(picture: PILImage.Image) -> PILImage.Image:
    """Halve a large picture as soon as can be: JPEGs while they are decoded."""
    if (factor := halvings(picture)) > 1:
        picture.draft(None, (picture.width // factor, picture.height // factor))
        if picture.mode in ("L", "RGB", "RGBA", "CMYK"):
            return picture.reduce(halvings(picture))
    return picture


def upright(picture: PILImage.Image) -> PILImage.Image:
    """Turn a picture as its tag of orientation says; what its numbers mean still goes by the format of its file."""
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(picture)
    turned.format = getattr(picture, "format", None)
    return turned


def as_rgb(picture: PILImage.Image) -> PILImage.Image:
    """Convert any mode to RGB, in the colours of sRGB: wider values by their upper 8 bits, transparency over white."""
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":
        values, clear = np.asarray(picture).astype(np.float32), picture.info.get("transparency")
        finite = values[np.isfinite(values)]
        if values.size and not finite.size:
            raise InvalidImage("The picture holds no number: all of its values are nan or inf. Give another one.")
        top = white(finite if picture.mode == "F" else values, picture.mode, picture.format)
        shown = np.nan_to_num(values, nan=0, posinf=top, neginf=0)
        if picture.mode.startswith("I;16") and isinstance(clear, int):  # a grey value that stands for no colour
            shown[values == clear] = top
        means = {key: value for key, value in picture.info.items() if key != "transparency"}
        picture = Image.fromarray((shown / top * 255).clip(0, 255).round().astype(np.uint8))
        picture.info = means
    picture = in_srgb(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")
