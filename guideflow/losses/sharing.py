"""Networks that several losses look through, loaded once: losses of many references differ in no more than those."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from guideflow._process import own_numbers

P = ParamSpec("P")
T = TypeVar("T")

Shared = dict[str, Any]
"""What was loaded, by what it was loaded with."""

_PLAIN = (str, Path, int, float, bool, type(None), torch.dtype)
_now: ContextVar[Shared | None] = ContextVar("shared", default=None)


@contextmanager
def sharing(found: Shared) -> Iterator[None]:
    """Let loaders that are `shared` look here first, and keep here what they load."""
    before = _now.set(found)
    try:
        yield
    finally:
        _now.reset(before)


def shared(load: Callable[P, T]) -> Callable[P, T]:
    """Make a loader load a network once for the losses of a sweep, which differ in their reference only.

    For a function whose arguments say which network it is, as `@shared`. The random numbers that networks are made of
    before their weights are read are not the caller's. What it returns belongs to several losses: it
    may be frozen and moved to a device, and not changed otherwise. Outside of sweeps, and for arguments other than
    text, paths, numbers and lists of them, such as a network, it loads anew.
    """
    known = signature(load)

    @wraps(load)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        found = _now.get()
        if found is None or not all(map(_is_plain, [*args, *kwargs.values()])):
            with own_numbers():
                return load(*args, **kwargs)
        words = repr((load.__module__, load.__qualname__, known.bind(*args, **kwargs).arguments))
        if words not in found:
            with own_numbers():
                found[words] = load(*args, **kwargs)
        made: T = found[words]
        return made

    return call


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, list | tuple) and all(map(_is_plain, value)))
