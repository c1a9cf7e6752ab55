"""Find what installed packages offer, by name.

A plugin is a module named by an entry point of the group `guideflow`. All of them are imported when a name is first
asked for: they are light by contract, and what is not stands behind `Entry("module:Factory")`. Each is guarded, so
one broken plugin never harms another.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import SimpleNamespace
from typing import Any, Final

import pluggy

from guideflow._require import did_you_mean
from guideflow.errors import BrokenPlugin, DuplicatePlugin, InvalidArgument, UnknownPlugin
from guideflow.registry import hooks
from guideflow.registry.entries import Entry, Offer, Plugin, reason

HOOKS: Final = {"sampler": "guideflow_samplers", "loss": "guideflow_losses", "solver": "guideflow_solvers"}
"""The kinds of thing that are loaded by name, and the hook that provides each."""


@dataclass(frozen=True)
class _Found:
    """What all plugins offer, and why those that failed did."""

    offers: tuple[Offer, ...]
    broken: Mapping[Plugin, BaseException]


def refresh() -> None:
    """Forget what is cached, so that packages installed since then are seen."""
    _points.cache_clear()
    _found.cache_clear()


@cache
def _points() -> Mapping[Plugin, EntryPoint]:
    points: dict[Plugin, EntryPoint] = {}
    for point in entry_points(group="guideflow"):
        name, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "")
        points.setdefault(Plugin(point.name, point.value, name, version), point)
    return dict(sorted(points.items(), key=lambda item: (item[0].name, item[0].distribution)))


def plugins() -> tuple[Plugin, ...]:
    """List the installed plugins from their metadata, importing none.

    Returns:
        One for each entry point of the group `guideflow`, by name.
    """
    return tuple(_points())


@cache
def _found() -> _Found:
    offers: list[Offer] = []
    broken: dict[Plugin, BaseException] = {}
    modules: set[str] = set()
    for plugin, point in _points().items():
        if plugin.module in modules:  # shared by several entry points
            continue
        modules.add(plugin.module)
        try:
            offers += _ask(plugin, point.load())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module may well call sys.exit
            broken[plugin] = error
    return _Found(tuple(sorted(offers, key=lambda offer: offer.name)), broken)


def _ask(plugin: Plugin, module: object) -> list[Offer]:
    manager = pluggy.PluginManager("guideflow")
    manager.add_hookspecs(hooks)
    # What the module has by now: pluggy would ask for all of its names, and import what loads on demand.
    manager.register(SimpleNamespace(**vars(module)))
    return [
        Offer(kind, _name(name), made if isinstance(made, Entry) else Entry(made, _summary(made)), plugin)
        for kind, hook in HOOKS.items()
        for answer in getattr(manager.hook, hook)()
        for name, made in answer.items()
    ]


def _name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]+", name):
        raise InvalidArgument(f"A hook returned the name {name!r}. Expected letters, digits, and . + - _ between them.")
    return name


def _summary(factory: Callable[..., Any]) -> str:
    return (inspect.getdoc(factory) or "").strip().partition("\n")[0]


def find(kind: str, name: str) -> Offer:
    """Find what provides a name.

    Arguments:
        kind: `"sampler"`, `"loss"` or `"solver"`.
        name: The name users type.

    Returns:
        The entry with its plugin.

    Raises:
        UnknownPlugin: If no plugin provides the name.
        BrokenPlugin: If none does, and the plugin that is called like it fails.
        DuplicatePlugin: If several do.
    """
    found = [offer for offer in offers(kind) if offer.name == name]
    if len(found) > 1:
        who = " and ".join(f"{offer.plugin.distribution} ({offer.plugin.module})" for offer in found)
        raise DuplicatePlugin(f"The {kind} {name!r} is provided by {who}. Uninstall one of them.")
    if found:
        return found[0]
    raise not_found(name, kind)


def offers(kind: str) -> tuple[Offer, ...]:
    """List everything of one kind.

    Arguments:
        kind: `"sampler"`, `"loss"` or `"solver"`.

    Returns:
        What the plugins that can be imported provide, by name.
    """
    return tuple(offer for offer in _found().offers if offer.kind == kind)


def broken() -> Mapping[Plugin, str]:
    """Tell which plugins failed, and why.

    Returns:
        One reason on one line for each plugin whose import or hook raised.
    """
    return {plugin: reason(error) for plugin, error in _found().broken.items()}


def not_found(name: str, *kinds: str) -> UnknownPlugin | BrokenPlugin:
    """Say that nothing provides a name: with near matches, and the plugins that failed.

    Arguments:
        name: As typed.
        kinds: What was looked for.

    Returns:
        The error, to be raised.
    """
    what = " or ".join(kinds)
    failed = _found().broken
    for plugin, error in failed.items():
        if plugin.name == name:
            found = BrokenPlugin(f"The {what} {name!r} cannot be loaded. {_failure(plugin, error)}")
            found.__cause__ = error
            return found
    known = sorted({offer.name for kind in kinds for offer in offers(kind)})
    lines = [
        f"There is no {what} named {name!r}.{did_you_mean(name, known)} Known names: {', '.join(known) or 'none'}."
    ]
    lines += [f"There is a {o.kind} of that name: use load_{o.kind}." for o in _found().offers if o.name == name]
    return UnknownPlugin(" ".join([*lines, *(_failure(plugin, error) for plugin, error in failed.items())]))


def _failure(plugin: Plugin, error: BaseException) -> str:
    return f"The plugin {plugin.name!r} of {plugin.distribution} ({plugin.module}) failed with {reason(error)}."
