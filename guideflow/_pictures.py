"""Files of pictures that need not be trusted: which are opened, and how any mode becomes RGB of 8 bits."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from guideflow.errors import InvalidImage

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image as PILImage

MAX_PIXELS: Final = {"JPEG": 250_000_000, "MPO": 250_000_000}
"""Larger images are refused before they are decoded. Phones write JPEGs of 200 million; those are decoded at a half."""

MOST_PIXELS: Final = 100_000_000
"""The same for other formats."""

KEPT_PIXELS: Final = 50_000_000
"""Larger images are halved until they have no more."""

MAX_BYTES: Final = 200 * 2**20
"""Larger files are refused before they are opened."""

_WHITES: Final = (255, 1023, 4095, 16383, 65535)
"""What floating-point values may end at, beside 1."""

# No format whose reader starts another program (EPS) or that is not an image of its own.
_FORMATS: Final = {"AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP"}


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


def as_rgb(picture: PILImage.Image, format: str | None = None) -> PILImage.Image:
    """Convert any mode to RGB, in the colours of sRGB: wider values by their upper 8 bits, transparency over white.

    With a format, what numbers mean is judged by it: see `_white`.
    """
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":
        values, clear = np.asarray(picture).astype(np.float32), picture.info.get("transparency")
        finite = values[np.isfinite(values)]
        if values.size and not finite.size:
            raise InvalidImage("The picture holds no number: all of its values are nan or inf. Give another one.")
        top = _white(finite, picture.mode, format)
        shown = np.nan_to_num(values, nan=0, posinf=top, neginf=0)
        if picture.mode.startswith("I;16") and isinstance(clear, int):  # a grey value that stands for no colour
            shown[values == clear] = top
        picture = Image.fromarray((shown / top * 255).clip(0, 255).round().astype(np.uint8))
    if "icc_profile" in picture.info:
        picture = in_srgb(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _white(values: NDArray[np.float32], mode: str, format: str | None) -> int:
    """Return the value that is meant to be white.

    Floating-point values end at 1, or else at what whole numbers of some bits end at; 16 bits of a TIFF, and of a PNG
    that would be black otherwise, may hold fewer.
    """
    if not values.size:
        return 1
    if mode == "F":  # which may overshoot: what nearly all of them stay under decides
        low, typical = np.quantile(values[:: max(1, values.size // 1_000_000)], [0.01, 0.99])
        most = next((one for one in (1, *_WHITES) if typical <= one * (16 if one == 1 else 1.1)), int(typical))
        if most == 1 and typical > 2:
            _tell(f"A picture of floating-point values goes up to {typical:.3g}; beyond 1 all is read as white.")
        if low < -0.05 * most:
            _tell(f"A picture of floating-point values goes down to {low:.3g}; below 0 all is read as black.")
        return most
    most = int(values.max())
    if mode == "I" and most > 65535:
        return next(one for one in (2**24 - 1, 2**31) if most <= one)
    fewer = (8, 10, 12, 14) if format == "TIFF" else (8, 10, 12) if format == "PNG" else ()
    if not fewer:
        return 65535 if mode.startswith("I;16") or most > 255 else 1 if most <= 1 else 255
    used = next((n for n in fewer if most < 2**n), 16)
    if used < 16 and most > 0:
        _tell(f"A picture of 16 bits uses {used} of them, and is read as one of {used} bits.")
    return int(2**used - 1)


def in_srgb(picture: PILImage.Image) -> PILImage.Image:
    """Convert the colours of a picture from those of the profile in it, as phones write Display P3, to sRGB.

    A profile that is damaged, or of another kind of picture, is told, and the picture is taken as it is.
    """
    from PIL import ImageCms

    picture = picture.copy()
    content = picture.info.pop("icc_profile")
    if not content:
        return picture
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        known = profile.profile
        if "srgb" in (known.profile_description or "").lower():
            return picture
        if picture.mode in ("P", "PA") or (picture.mode == "RGB" and picture.has_transparency_data):
            picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
        kinds = {"RGB ": ("RGB", "RGBA"), "GRAY": ("L",), "CMYK": ("CMYK",)}
        if picture.mode not in kinds.get(known.xcolor_space, ()):
            return picture
        to = picture.mode if picture.mode in ("RGB", "RGBA") else "RGB"
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        made = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), intent, to, flags=flags)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        _tell(f"The colour profile of a picture cannot be used ({error}); its colours are taken for those of sRGB.")
        return picture
    assert made is not None
    made.info.pop("icc_profile", None)
    return made


def _tell(what: str) -> None:
    warnings.warn(what, stacklevel=4)
