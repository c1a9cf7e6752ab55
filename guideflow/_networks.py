"""The networks that a sampler or loss holds, wherever it keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from guideflow._process import InOwnState

if TYPE_CHECKING:
    from torch import nn


def networks(made: object) -> Iterator[tuple[str, nn.Module]]:
    """Find networks by where they are, such as "parts.unet": in attributes, containers, dataclasses and own classes."""
    from torch import nn  # only here: samplers are defined without it

    package, seen = _package(made), set[int]()

    def search(value: Any, path: str) -> Iterator[tuple[str, nn.Module]]:
        if id(value) in seen:
            return
        seen.add(id(value))
        inner: Mapping[Any, Any] = {}
        if isinstance(value, nn.Module):
            yield path, value
        elif isinstance(value, Mapping):
            inner = value
        elif isinstance(value, list | tuple):
            inner = dict(enumerate(value))
        elif is_dataclass(value) and not isinstance(value, type):
            inner = {item.name: getattr(value, item.name, None) for item in fields(value)}
        elif (_package(value) in (package, "guideflow") or isinstance(value, InOwnState)) and hasattr(
            value, "__dict__"
        ):
            inner = vars(value)
        for name, one in inner.items():
            yield from search(one, f"{path}.{name}".lstrip("."))

    seen.add(id(made))
    if isinstance(made, nn.Module):
        yield "", made
    for name, value in [*getattr(made, "__dict__", {}).items()]:
        yield from search(value, str(name))


def _package(value: object) -> str:
    return type(value).__module__.partition(".")[0]
