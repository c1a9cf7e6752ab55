"""What may be typed as `reference=`: a picture, a folder, a pattern, `~`, or the name of a picture that is bundled."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from os.path import exists, expanduser, isdir, isfile  # of a name that is too long they say no
from pathlib import Path
from typing import Any

from guideflow._told import did_you_mean, shorten
from guideflow.errors import InvalidImage

PICTURES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def expand(given: Any, bundled: Path | None, subjects: bool) -> Any:
    """Return a reference with paths of pictures in the place of folders, patterns and names; all else as it is.

    Arguments:
        given: A path, or a list of paths and lists, or anything.
        bundled: Folder of the pictures that may be named.
        subjects: Whether a list has an entry for each subject: then a folder is a list of one of them.

    Raises:
        InvalidImage: If there is no picture in a folder, or of a pattern, or of a name.
    """
    if isinstance(given, str | Path):
        found = _one(given, bundled)
        return [found] if subjects and isinstance(found, list) else found
    if not isinstance(given, list | tuple):
        return given
    entries: list[Any] = []
    for one in given:
        found = expand(one, bundled, False)
        entries += found if isinstance(found, list) and not subjects else [found]
    return entries


def _one(given: str | Path, bundled: Path | None) -> Any:
    """Return a path, or a list of them."""
    if not str(given):  # of a variable that is not set, say; as a path it would be the working folder
        raise InvalidImage("Got an empty name as reference. Give the path of a picture, or '.' for this folder.")
    path = Path(expanduser(given))
    if isdir(path):
        return _some([str(one) for one in sorted(path.iterdir()) if _is_picture(one)], f"There is no picture in {path}")
    if exists(path):
        return str(path) if str(given).startswith("~") else given
    if glob.has_magic(str(path)):
        found = [one for one in sorted(glob.glob(str(path))) if _is_picture(Path(one))]
        return _some(found, f"No picture is called like {str(given)!r}")
    if bundled is None or len(path.parts) > 1 or path.suffix:
        return given  # the loss tells that it is missing
    if isfile(inside := bundled / f"{path.name}.png"):
        return str(inside)
    names = bundled_names(bundled)
    why = f"There is no file {shorten(str(given), 200)}, nor a bundled picture of that name."
    cure = f"Give the path of a picture, a folder, or one of: {', '.join(names)}."
    raise InvalidImage(f"{why}{did_you_mean(str(given), names)} {cure}")


def bundled_names(folder: Path) -> Sequence[str]:
    """List the names of the pictures that a folder bundles."""
    return sorted(path.stem for path in folder.glob("*.png"))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and not path.name.startswith(".") and path.is_file()


def _some(found: list[str], otherwise: str) -> list[str]:
    if not found:
        raise InvalidImage(f"{otherwise}. Expected {', '.join(sorted(one[1:] for one in PICTURES))}.")
    return found
