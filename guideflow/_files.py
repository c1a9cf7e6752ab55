"""Files, read and written with care: who writes holds them, so what a killed process has left is told from the rest."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

if TYPE_CHECKING:
    from PIL import Image as PILImage

_END = r"-[0-9a-f]{32}\.part(\.\w+)?"


def hold(file: BinaryIO) -> bool:
    """Lock an open file until it is closed, or the process ends; False where there are no locks."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # Windows; a file system that knows none
        return False
    return True


def is_left(path: Path) -> bool:
    """Tell whether nobody holds a file any more."""
    with suppress(ImportError, OSError):  # also of what is no file, or is gone
        import fcntl

        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        finally:
            os.close(file)
    return False


def remove_left(folder: Path, names: Iterable[str]) -> None:
    """Remove what processes that were killed have left of files of some names."""
    stems = "|".join(re.escape(one) for name in names for one in (name, Path(name).stem))
    left = re.compile(rf"\.({stems}){_END}")
    for name in os.listdir(folder):
        if left.fullmatch(name) and is_left(folder / name):
            with suppress(OSError):
                (folder / name).unlink()


def read_small(path: Path, most: int = 64 * 2**20) -> str:
    """Read a text in UTF-8 that somebody has written by hand, and nothing that has no end.

    Raises:
        OSError: If it is no file, as a pipe or a device is none, has more than so many bytes or cannot be opened.
        UnicodeDecodeError: If it is no text.
    """
    if not path.is_file():
        raise OSError(
            "it is a folder" if path.is_dir() else "it is no file" if path.exists() else "there is no such file"
        )
    if path.stat().st_size > most:
        raise OSError(f"it has more than {most >> 20} MB")
    return path.read_text(encoding="utf-8-sig")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; a link in its place, or in the way, is not followed."""
    partial = path.with_name(f".{path.name}-{uuid4().hex}.part")
    try:
        with partial.open("xb") as file:
            held = hold(file)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if held:  # until it is in its place
                os.replace(partial, path)
        if not held:
            os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):  # of a disk that is full Python does not say where
            error.filename = str(path)
        raise


def write_picture(path: Path, picture: PILImage.Image) -> None:
    """Write a picture of Pillow's as a PNG, whole or not at all."""
    picture.save(content := BytesIO(), format="PNG")
    write_whole(path, content.getvalue())
