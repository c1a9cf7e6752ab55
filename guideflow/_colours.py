"""What the colours of a picture mean: the profile in it, or else what its file says of them, and sRGB."""

from __future__ import annotations

import io
import struct
import warnings
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image as PILImage


class Primaries(NamedTuple):
    """Chromaticities (x, y), in the order of a PNG's cHRM chunk."""

    white: tuple[float, float]
    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]


_D65: Final = (0.3127, 0.3290)
_SRGB: Final = Primaries(_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_ADOBE: Final = Primaries(_D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), 563 / 256
_D50: Final = np.array([0.9642, 1.0, 0.8249])  # as profiles have it
_BRADFORD: Final = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def in_srgb(picture: PILImage.Image) -> PILImage.Image:
    """Convert the colours of a picture to those of sRGB.

    They are those of the profile in it, as phones write Display P3; without one, those of the chunks gAMA and cHRM of a
    PNG, or Adobe RGB where a camera's EXIF says so. What is damaged or incredible, or of another kind of picture, is
    told, and the picture is taken as it is.
    """
    from PIL import ImageCms

    content = picture.info.get("icc_profile")
    if not content and (content := _declared(picture)) and picture.mode in ("1", "L", "LA"):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
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
        tell(f"The colour profile of a picture cannot be used ({error}); its colours are taken for those of sRGB.")
        return picture
    assert made is not None
    return made


def _declared(picture: PILImage.Image) -> bytes:
    """Return the profile that a file without one means; empty for sRGB and where it says nothing."""
    gamma, places = picture.info.get("gamma"), picture.info.get("chromaticity")
    if "srgb" in picture.info or picture.mode == "CMYK":
        return b""
    if gamma is not None or places is not None:
        primaries = _SRGB if places is None else _primaries(places)
        if primaries is None or not (gamma is None or 0.2 <= gamma <= 1.1):
            tell("A PNG declares colours that cannot be (gAMA, cHRM); they are taken for those of sRGB.")
            return b""
        usual = gamma is None or abs(gamma * 2.2 - 1) < 0.03
        if usual and np.abs(np.subtract(primaries, _SRGB)).max() < 0.005:
            return b""
        return profile(primaries, 2.2 if gamma is None else 1 / gamma)
    space, index = _exif(picture)
    if space == 2 or (space == 0xFFFF and index == "R03"):
        return profile(*_ADOBE)
    if space == 0xFFFF and index != "R98":
        tell("The EXIF of a picture says that its colours are not those of sRGB, and nothing else; they are taken so.")
    return b""


def _exif(picture: PILImage.Image) -> tuple[Any, str]:
    """Return the colour space and the index of interoperability that a camera has written; 1 and nothing without."""
    try:
        exif = picture.getexif()
        own = exif.get_ifd(0x8769)
        index = exif.get_ifd(0xA005).get(1, "") if 0xA005 in own else ""
        return own.get(0xA001, 1), str(index).strip("\0 ")
    except Exception:  # of what is damaged, of many kinds
        return 1, ""


def _primaries(places: tuple[float, ...]) -> Primaries | None:
    """Read white, red, green and blue from a PNG; None for what can be no colours."""
    if len(places) != 8:
        return None
    found = Primaries(*zip(places[::2], places[1::2], strict=True))
    corners = np.array(found[1:])
    shares = np.linalg.lstsq(np.vstack([corners.T, np.ones(3)]), np.array([*found.white, 1.0]), rcond=None)[0]
    (a, b), (c, d) = corners[1:] - corners[0]
    wide = abs(a * d - b * c) > 0.01 and min(one[1] for one in found) > 0 and max(places) < 1.1
    return found if wide and shares.min() > 0.01 else None


def profile(primaries: Primaries, gamma: float) -> bytes:
    """Write a profile of three primaries and a power, as ICC.1 has it: version 4, with a parametric curve."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    def text(words: str) -> bytes:
        return (
            b"mluc" + struct.pack(">III2s2sII", 0, 1, 12, b"en", b"US", 2 * len(words), 28) + words.encode("utf-16-be")
        )

    curve = b"para" + bytes(8) + fixed(gamma)
    tags = {b"desc": text("declared"), b"cprt": text("none"), b"wtpt": b"XYZ " + bytes(4) + fixed(*_D50)}
    for letter, column in zip((b"r", b"g", b"b"), _in_d50(primaries).T, strict=True):
        tags |= {letter + b"XYZ": b"XYZ " + bytes(4) + fixed(*column), letter + b"TRC": curve}
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for key, content in tags.items():
        table += key + struct.pack(">II", start + len(body), len(content))
        body += content.ljust(-(-len(content) // 4) * 4, b"\0")
    head = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x04200000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return (head + bytes(28) + fixed(*_D50)).ljust(128, b"\0") + table + body


def _in_d50(primaries: Primaries) -> NDArray[np.float64]:
    """Return the columns XYZ of red, green and blue, adapted from their white to that of profiles by Bradford."""
    white, *columns = (np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in primaries)
    seen = np.stack(columns, 1)
    seen = seen * np.linalg.solve(seen, white)
    adapt = np.linalg.solve(_BRADFORD, ((_BRADFORD @ _D50) / (_BRADFORD @ white))[:, None] * _BRADFORD)
    adapted: NDArray[np.float64] = adapt @ seen
    return adapted


def tell(what: str) -> None:
    """Warn of how a picture is read."""
    warnings.warn(what, stacklevel=4)
