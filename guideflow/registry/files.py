"""Losses, samplers and solvers from a Python file of the user's: `path/to/file.py:Name`, without any packaging."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

from guideflow._told import did_you_mean
from guideflow.errors import UnknownPlugin
from guideflow.losses.base import Loss
from guideflow.registry.entries import FILE_NAME
from guideflow.registry.loaded import module_name
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
    path, wanted = Path(os.path.expanduser(found[1])), found[2]
    if not path.is_file():
        raise UnknownPlugin(f"There is no file {path}. Give the path of a Python file: path/to/file.py:Name.")
    module = import_module(module_name(path))
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
