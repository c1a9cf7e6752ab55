"""The hooks a plugin may implement: one for each kind of thing that is loaded by name.

A plugin is a module named by an entry point of the group `guideflow`. It marks its functions with `hookimpl`; each
returns a mapping from the name users type to a factory, or to a [`guideflow.Entry`][] that says more about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from guideflow.registry.entries import Entry

hookspec = pluggy.HookspecMarker("guideflow")
hookimpl = pluggy.HookimplMarker("guideflow")


@hookspec
def guideflow_losses() -> Mapping[str, Entry | Callable[..., Any]]:  # type: ignore[empty-body]
    """Return `{name: factory}` for losses.

    A factory takes options by keyword and returns a callable that maps an image batch to one number per image.
    The body may import what it needs; the module should be light at import.

    Returns:
        A mapping from the name users type to a factory or a [`guideflow.Entry`][].
    """


@hookspec
def guideflow_samplers() -> Mapping[str, Entry | Callable[..., Any]]:  # type: ignore[empty-body]
    """Return `{name: factory}` for samplers.

    A factory takes options by keyword and returns a [`guideflow.Sampler`][].
    The body may import what it needs; the module should be light at import.

    Returns:
        A mapping from the name users type to a factory or a [`guideflow.Entry`][].
    """


@hookspec
def guideflow_solvers() -> Mapping[str, Entry | Callable[..., Any]]:  # type: ignore[empty-body]
    """Return `{name: factory}` for solvers.

    A factory takes options by keyword and returns a solver: a frozen dataclass with `init` and `step`.
    The body may import what it needs; the module should be light at import.

    Returns:
        A mapping from the name users type to a factory or a [`guideflow.Entry`][].
    """
