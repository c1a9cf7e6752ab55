"""The modules that files of the user's become: each has a name that says which file it is, in which state.

So what is made of them comes out of a pickle in another process too, such as a worker of a DataLoader or of Ray: that
imports the file again, if it is the same still.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from guideflow.errors import BrokenPlugin
from guideflow.registry.entries import reason

__path__: list[str] = []  # a package of modules that are found below
_NAME = re.compile(rf"{re.escape(__name__)}\.f((?:[0-9a-f]{{2}})+)_(\d+_\d+)")


def module_name(path: Path) -> str:
    """Name the module of a file, another one for each state that the file is in."""
    return f"{__name__}.f{os.fsencode(path.resolve()).hex()}_{_state(path)}"


def _state(path: Path) -> str:
    found = path.stat()
    return f"{found.st_mtime_ns}_{found.st_size}"


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if (found := _NAME.fullmatch(fullname)) is None:
            return None
        file = Path(os.fsdecode(bytes.fromhex(found[1])))
        if not file.is_file() or _state(file) != found[2]:
            raise ModuleNotFoundError(f"{file} is not there any more as it was when what is made of it was pickled.")
        return spec_from_loader(fullname, _Loader(file), origin=str(file))


class _Loader(Loader):
    def __init__(self, file: Path) -> None:
        self.file = file

    def exec_module(self, module: ModuleType) -> None:
        path, module.__file__ = self.file, str(self.file)
        sys.path.insert(0, str(path.parent))  # as for a script: a file may import its neighbours
        try:
            exec(compile(path.read_bytes(), path, "exec"), vars(module))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
            if isinstance(error, SyntaxError):
                frames.append((str(error.filename), error.lineno))
            lines = [f", line {line}" for file, line in frames if file == str(path)] or [""]
            raise BrokenPlugin(f"{path} cannot be imported{lines[-1]}: {reason(error)}") from error
        finally:
            sys.path.remove(str(path.parent))


if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
    sys.meta_path.append(_Finder())
