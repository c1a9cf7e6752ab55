"""Losses from a Python file of the user's: `path/to/file.py:Name`, without any packaging."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor

from guideflow._require import did_you_mean
from guideflow.errors import BrokenPlugin, UnknownPlugin
from guideflow.losses.base import Loss
from guideflow.registry.entries import FILE_NAME


def factory_from_file(name: str) -> Callable[..., Any]:
    """Import a file and find what makes the loss.

    Arguments:
        name: `path/to/file.py:Name`, where `Name` is a class, made with the options; a function from images to one
            number per image, whose further arguments are the options; or a loss that the file has made.

    Returns:
        What makes the loss from options.

    Raises:
        UnknownPlugin: if there is no such file or name.
        BrokenPlugin: if the file cannot be imported.
    """
    found = FILE_NAME.fullmatch(name)
    assert found is not None
    path = Path(found[1]).expanduser()
    if not path.is_file():
        raise UnknownPlugin(f"There is no file {found[1]}. Give the path of a Python file: path/to/file.py:Name.")
    module = _import(path)
    thing = getattr(module, found[2] or "", None)
    if isinstance(thing, type):
        return thing
    if isinstance(thing, Loss):
        return lambda: thing
    if isinstance(thing, FunctionType):
        return _maker(thing)
    raise UnknownPlugin(_unknown(path, found[2], module))


class FunctionLoss(Loss):
    """A function from a file as a loss, with its options.

    Arguments:
        function: from images, and the options by keyword, to one number per image.
        options: the options.
    """

    def __init__(self, function: Callable[..., Tensor], options: dict[str, Any]) -> None:
        self.name = function.__name__
        self._function, self._options = function, options

    def __call__(self, image: Any) -> Any:
        """Return what the function returns."""
        return self._function(image, **self._options)


def _maker(function: FunctionType) -> Callable[..., Loss]:
    def make(**options: Any) -> Loss:
        return FunctionLoss(function, options)

    signature = inspect.signature(function)
    make.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    return make


def _import(path: Path) -> ModuleType:
    """Import a file once for each state it is in, so that an edited file is read again."""
    resolved, stat = path.resolve(), path.stat()
    state = f"{resolved} {stat.st_mtime_ns} {stat.st_size}".encode()
    name = f"guideflow_file_{resolved.stem}_{hashlib.sha256(state).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(resolved.parent))  # as for a script: a file may import its neighbours
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        where = _line(error, str(resolved))
        reason = " ".join(str(getattr(error, "msg", "") or error).split())
        raise BrokenPlugin(f"{path} cannot be imported{where}: {type(error).__name__}: {reason}") from error
    finally:
        sys.path.remove(str(resolved.parent))
    return module


def _line(error: BaseException, file: str) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == file else lines[-1] if lines else None
    return "" if line is None else f", line {line}"


def _unknown(path: Path, wanted: str | None, module: ModuleType) -> str:
    known = [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (isinstance(thing, Loss) or getattr(thing, "__module__", None) == module.__name__)
    ]
    listing = f"It defines: {', '.join(known) or 'nothing that could be one'}."
    if not wanted:
        example = known[0] if known else "Name"
        return f"{path} is a file; say which loss in it, as in {path}:{example}. {listing}"
    return f"There is no loss {wanted} in {path}.{did_you_mean(wanted, known)} {listing}"
