"""What a folder says of the search in it, and whether another spec may go on with it."""

import json
import os
from pathlib import Path
from typing import Any, Final

from guideflow._files import remove_left, write_whole
from guideflow.errors import CannotResume, FolderInUse, InvalidArgument
from guideflow.storage import versions
from guideflow.storage.folder import read_manifest
from guideflow.tune.results import PLOT, TABLE
from guideflow.tune.spec import Tune
from guideflow.tune.study import JOURNAL

SCHEMA_NUMBER: Final = 1
ABOUT: Final = "tune.json"
_OURS: Final = {ABOUT, JOURNAL, TABLE, PLOT, "trials", "unguided", ".lock"}
_FREE: Final = ("trials", "at_most", "check", "note", "batch", "memory", "gradient_mode", "device", "workers")
"""Fields that change no trial."""


def check_out(folder: Path, spec: Tune) -> None:
    """Refuse a folder that holds something else than this search, before anything is written to it."""
    if folder.exists() and not folder.is_dir():
        raise InvalidArgument(f"{folder} is a file. Give --out another name, for a folder.")
    existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InvalidArgument(f"{folder} cannot be written: no permission for {existing}. Give --out another folder.")
    if not (folder / ABOUT).exists():
        there = sorted(os.listdir(folder)) if folder.is_dir() else []
        foreign = [name for name in there if name not in _OURS and not name.endswith(".part")]
        if foreign:
            raise FolderInUse(f"{folder} holds other files, such as {foreign[0]}. Give --out a folder of its own.")
        return
    try:
        before = read_manifest(folder / ABOUT)
        old, schema = before["spec"], before["tune"]
        if not isinstance(old, dict):
            raise TypeError(f"spec holds a {type(old).__name__}")
    except (CannotResume, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
        raise InvalidArgument(
            f"{folder / ABOUT} cannot be read ({why}). Bring it back, or give --out another folder."
        ) from error
    if schema != SCHEMA_NUMBER:
        raise InvalidArgument(
            f"{folder} was written in format {schema!r}; this guideflow writes {SCHEMA_NUMBER}. Give --out another "
            "folder."
        )
    new = _plain(spec)
    for name in dict.fromkeys([*old, *new]):
        if name not in _FREE and old.get(name) != new.get(name):
            raise FolderInUse(
                f"{folder} holds a search with another `{name}`. Put it back, or give --out another folder. `trials` "
                "may grow."
            )


def write_about(folder: Path, spec: Tune) -> None:
    """Write what the search is."""
    content = {"tune": SCHEMA_NUMBER, "versions": versions(), "spec": _plain(spec)}
    write_whole(folder / ABOUT, (json.dumps(content, indent=1) + "\n").encode())
    remove_left(folder, [ABOUT])


def _plain(spec: Tune) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(spec.written()))
    return found
