"""The hooks a plugin may implement: one for each kind of thing that is loaded by name.

A plugin is a module named by an entry point of the group `guideflow`. It marks its functions with `hookimpl`; each
returns a mapping from the name users type to a factory, or to a [`guideflow.Entry`][] that says more about it. The
body of a factory may import what it needs; the module should be light at import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import pluggy

if TYPE_CHECKING:
    from guideflow.registry.entries import Entry

Factories: TypeAlias = "Mapping[str, Entry | Callable[..., Any]]"

hookspec = pluggy.HookspecMarker("guideflow")
hookimpl = pluggy.HookimplMarker("guideflow")


@hookspec
def guideflow_losses() -> Factories:  # type: ignore[empty-body]
    """Return `{name: factory}`; a factory takes options by keyword and returns a callable from images to (batch,)."""


@hookspec
def guideflow_samplers() -> Factories:  # type: ignore[empty-body]
    """Return `{name: factory}`; a factory takes options by keyword and returns a [`guideflow.Sampler`][]."""


@hookspec
def guideflow_solvers() -> Factories:  # type: ignore[empty-body]
    """Return `{name: factory}`; a factory takes options by keyword and returns a [`guideflow.Solver`][]."""


@hookspec
def guideflow_metrics() -> Factories:  # type: ignore[empty-body]
    """Return `{name: factory}`; a factory takes options by keyword and returns a [`guideflow.Metric`][]."""
