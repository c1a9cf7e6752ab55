"""A folder that holds a solve, or shall: looked at before it is written to, and not believed when it is read."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from guideflow._given import as_place
from guideflow._told import said
from guideflow.errors import CannotResume, FolderInUse, InvalidArgument
from guideflow.memory import available_bytes

MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 64 * 2**20


def as_folder(given: object) -> Path:
    """Read the name of a folder, which need not exist.

    Raises:
        InvalidArgument: if it is no name that a folder may have.
    """
    return as_place("folder", given, "out")


def check_folder(folder: Path, run: str | None = None, size: float = 0, *, overwrite: bool = False) -> dict[str, Any]:
    """Refuse before the work a folder that could not be saved to after it; return the manifest in it.

    Arguments:
        folder: which need not exist.
        run: identity of the run that may be there already.
        size: bytes that there should be room for.
        overwrite: another run may be there as well.

    Raises:
        FolderInUse: if it holds another run.
        InvalidArgument: if it is none, cannot be written or has too little room.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidArgument(f"{folder} is a file. Give another name for the folder.")
    old = _old_manifest(folder)
    if not overwrite and old.get("run", run) != run:
        about = old.get("settings")
        about = about if isinstance(about, dict) else {}
        why = f"{folder} holds another solve, of {about.get('prompts')} with seeds {about.get('seeds')}."
        typed = f"{why} Give --out another folder, or type --force to write over it."
        cure = "Save to another folder, or type `save(..., overwrite=True)`."
        raise FolderInUse(f"{why} {cure}").as_typed(typed)
    existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InvalidArgument(f"{folder} cannot be written: no permission for {existing}. Give another folder.")
    if (free := shutil.disk_usage(existing).free) < size:
        raise InvalidArgument(
            f"{folder} has room for {free / 1e6:.0f} MB; this run needs about {size / 1e6:.0f}. Make room, or give "
            "another folder."
        )
    return old


def _old_manifest(folder: Path) -> dict[str, Any]:
    if not os.path.lexists(folder / MANIFEST):
        return {}
    try:
        return read_manifest(folder / MANIFEST)
    except (CannotResume, OSError, ValueError, RecursionError):
        return {"run": "unreadable"}


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest: no pipe, which is waited for, no device, which has no end, and nothing that fills the memory."""
    if not path.is_file() or path.stat().st_size > _LARGEST_MANIFEST:
        raise CannotResume(f"{path} is no manifest: no file, or one of more than {_LARGEST_MANIFEST >> 20} MB.")
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise CannotResume(f"{path} is no manifest: it holds a {type(found).__name__}.")
    return found


def inside(folder: Path, name: Any, pattern: str) -> Path:
    """Return a file that a manifest names, if a save could have written it."""
    if not isinstance(name, str) or not re.fullmatch(pattern, name):
        raise CannotResume(f"The manifest in {folder} names {said(name)}, which is no file of that folder.")
    file = (folder / name).resolve()
    if file.parent != folder.resolve() or not file.is_file():
        raise CannotResume(f"The manifest in {folder} names {said(name)}, which is no file of that folder.")
    if file.stat().st_size > available_bytes(torch.device("cpu")):
        raise CannotResume(f"{file} has {file.stat().st_size >> 20} MB, more than the memory holds.")
    return file
