"""Files while they are written: who writes holds them, so that what a killed process has left is told from the rest."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

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
