"""Packages whose public names are imported when first used (PEP 562), so that importing them costs nothing.

A package repeats its names for type checkers and readers, under `if TYPE_CHECKING`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


class _LazyPackage(ModuleType):
    """A package in which a public name wins over a submodule that is called the same, as `guideflow.solve`.

    Importing a submodule binds it in its package, at whatever time somebody asks for it first.
    """

    def __setattr__(self, name: str, value: object) -> None:
        """Leave a public name to `__getattr__`."""
        if not (isinstance(value, ModuleType) and name in self.__dict__["_homes"]):
            super().__setattr__(name, value)


def lazy(
    package: str, homes: Mapping[str, Iterable[str]], submodules: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the `__getattr__` and `__dir__` of a package.

    Arguments:
        package: Its `__name__`.
        homes: The names that each module provides; modules below the package.
        submodules: Modules that are attributes of the package without having been imported.

    Returns:
        The two functions, to be assigned at the top of the package.
    """
    module = sys.modules[package]
    where = {name: f"{package}.{home}" for home, names in homes.items() for name in names}
    below = frozenset(submodules)
    module.__dict__["_homes"] = where
    module.__class__ = _LazyPackage

    def get(name: str) -> Any:
        if name == "__all__":  # what a star import takes
            return sorted(where)
        if name in where:
            value = getattr(import_module(where[name]), name)
            module.__dict__[name] = value
            return value
        if name in below:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def listing() -> list[str]:
        return sorted({*module.__dict__, *where, *below} - {"_homes"})

    return get, listing
