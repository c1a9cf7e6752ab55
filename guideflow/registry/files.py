"""Losses, samplers and solvers from a Python file of the user's: `path/to/file.py:Name`, without any packaging."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from guideflow._require import did_you_mean
from guideflow.errors import BrokenPlugin, UnknownPlugin
from guideflow.losses.base import Loss
from guideflow.registry.entries import FILE_NAME, reason
from guideflow.sampler import Sampler


def factory_from_file(kind: str, name: str) -> Callable[..., Any]:
    """Import a file and find what makes a loss, sampler or solver: a class, a function, or one made there.

    A function is the loss itself, and makes a sampler or a solver.

    Raises:
        UnknownPlugin: if there is no such file or name.
        BrokenPlugin: if the file cannot be imported.
    """
    found = FILE_NAME.fullmatch(name)
    assert found is not None
    path, wanted = Path(found[1]).expanduser(), found[2]
    if not path.is_file():
        raise UnknownPlugin(f"There is no file {path}. Give the path of a Python file: path/to/file.py:Name.")
    stat = path.stat()
    module = _import(path.resolve(), (stat.st_mtime_ns, stat.st_size))
    thing = getattr(module, wanted or "", None)
    made = _BASES.get(kind, lambda: type(None))()
    if isinstance(thing, type):
        return thing
    if isinstance(thing, made):
        return lambda: thing
    if isinstance(thing, FunctionType):
        return _maker(thing) if kind == "loss" else thing
    public = {name: thing for name, thing in vars(module).items() if name[0] != "_"}
    own = module.__name__  # what it does not import
    known = [key for key, one in public.items() if isinstance(one, made) or getattr(one, "__module__", "") == own]
    listing = f"It defines: {', '.join(known) or 'nothing that could be one'}."
    if wanted:
        raise UnknownPlugin(f"There is no {kind} {wanted} in {path}.{did_you_mean(wanted, known)} {listing}")
    raise UnknownPlugin(f"{path} is a file; say which {kind} in it, as in {path}:{(*known, 'Name')[0]}. {listing}")


def _solver() -> type:
    from guideflow.solvers import Solver

    return Solver


_BASES: dict[str, Callable[[], type]] = {"loss": lambda: Loss, "sampler": lambda: Sampler, "solver": _solver}


class _Function(Loss):
    def __init__(self, function: FunctionType, options: dict[str, Any]) -> None:
        self.name, self._call = function.__name__, partial(function, **options)

    def __call__(self, image: Any) -> Any:
        return self._call(image)


def _maker(function: FunctionType) -> Callable[..., Loss]:
    def make(**options: Any) -> Loss:
        return _Function(function, options)

    signature = inspect.signature(function)
    make.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    return make


@cache
def _import(path: Path, state: tuple[int, int]) -> ModuleType:
    """Import a file once for each state it is in, so that an edited file is read again."""
    module = ModuleType(f"guideflow_file_{path.stem}_{abs(hash((path, state)))}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))  # as for a script: a file may import its neighbours
    try:
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        if isinstance(error, SyntaxError):
            frames.append((str(error.filename), error.lineno))
        lines = [f", line {line}" for file, line in frames if file == str(path)] or [""]
        raise BrokenPlugin(f"{path} cannot be imported{lines[-1]}: {reason(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module
