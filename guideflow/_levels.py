"""What the numbers of a picture end at: floating-point values, and bits that are not all used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from guideflow._colours import tell

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image as PILImage

_WHITES: Final = (255, 1023, 4095, 16383, 65535)
"""What floating-point values may end at, beside 1."""

_FEWER: Final = {"TIFF": (8, 10, 12, 14), "PNG": (8, 10, 12)}
"""Bits that may be all that 16 hold, by the format of the file."""


def white(values: NDArray[np.float32], mode: str, format: str | None) -> int:
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
            tell(f"A picture of floating-point values goes up to {typical:.3g}; beyond 1 all is read as white.")
        if low < -0.05 * most:
            tell(f"A picture of floating-point values goes down to {low:.3g}; below 0 all is read as black.")
        return most
    if mode == "I" and int(values.max()) > 65535 and (used := bits(values, (16, 24, 31))) > 16:
        return 2**24 - 1 if used == 24 else 2**31
    fewer = _FEWER.get(format or "", ())
    if not fewer:
        most = int(values.max())
        return 65535 if mode.startswith("I;16") or most > 255 else 1 if most <= 1 else 255
    used = bits(values, (*fewer, 16))
    if used < 16 and int(values.max()) > 0:
        tell(_fewer(used))
    return int(2**used - 1)


def bits(values: NDArray[Any], choices: tuple[int, ...]) -> int:
    """Return how many bits hold a picture, but for a few single pixels, as damaged ones of a sensor are marked.

    What is bright in a picture has light around it: a pixel counts as damaged if it stands alone among others that
    need fewer bits.
    """
    most = max(8, values.size // 10_000)
    for used in choices[:-1]:
        over = values >= 2**used
        found = np.count_nonzero(over)
        if not found:
            return used
        if found <= most and values[~over].any():
            (rows, columns), framed = np.nonzero(over), np.pad(over, 1)
            around = sum(framed[rows + i, columns + j].astype(int) for i in range(3) for j in range(3))
            if int(np.max(around)) == 1:
                return used
    return choices[-1]


def deep(picture: PILImage.Image, again: Callable[[], PILImage.Image]) -> tuple[PILImage.Image, str]:
    """Read a colour picture whose 16 bits hold fewer, of which Pillow keeps the upper eight.

    Arguments:
        picture: As it is opened, before it is decoded.
        again: Opens it once more, for the lower eight bits: they are what a reader of the other byte order sees.

    Returns:
        The picture of eight bits, and what is to be told of it; others as they are, and nothing.
    """
    from PIL import Image

    fewer, tiles = _FEWER.get(picture.format or "", ()), list(getattr(picture, "tile", ()))
    if picture.mode != "RGB" or not fewer or not tiles or _raw(tiles[0])[:-1] != "RGB;16":
        return picture, ""
    upper = np.asarray(picture)
    if (used := bits(upper.max(2) * np.uint16(256), (*fewer, 16))) == 16:
        return picture, ""
    with again() as lower:
        lower.tile = [_swapped(one) for one in tiles]  # type: ignore[attr-defined]
        values = upper * np.uint16(256) + np.asarray(lower)
    shown = (np.arange(65536) / (2**used - 1) * 255).clip(0, 255).round().astype(np.uint8)
    made = Image.fromarray(shown[values])
    made.info, made.format = picture.info, picture.format
    made.getexif()[0x112] = picture.getexif().get(0x112, 1)  # which of a TIFF is not among what `info` holds
    return made, _fewer(used) if values.any() else ""


def _fewer(used: int) -> str:
    return f"A picture of 16 bits uses {used} of them, and is read as one of {used} bits."


def _swapped(tile: Any) -> Any:
    """Return a part of a picture in the other byte order; "N" is that of this machine."""
    order = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}[_raw(tile)[-1]]
    packed = f"RGB;16{order}" if isinstance(tile[3], str) else (f"RGB;16{order}", *tile[3][1:])
    return tile._replace(args=packed) if hasattr(tile, "_replace") else (*tile[:3], packed)  # before Pillow 11 a tuple


def _raw(tile: Any) -> str:
    """Return how the numbers of a part of a picture are packed: "RGB;16B" are 16 bits, the upper ones first."""
    return str(tile[3] if isinstance(tile[3], str) else tile[3][0])
