"""Find what installed packages offer, by name.

A plugin is a module named by an entry point of the group `guideflow`. All of them are imported when a name is first
asked for: they are light by contract, and what is not stands behind `Entry("module:Factory")`. Each is guarded, so
one broken plugin never harms another.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Final

import pluggy

from guideflow._require import did_you_mean
from guideflow.errors import BrokenPlugin, DuplicatePlugin, InvalidArgument, UnknownPlugin
from guideflow.registry import hooks
from guideflow.registry.entries import Entry, Offer, Plugin, reason

HOOKS: Final = {"sampler": "guideflow_samplers", "loss": "guideflow_losses", "solver": "guideflow_solvers"}
"""The kinds of thing that are loaded by name, and the hook that provides each."""


def refresh() -> None:
    """Forget what is cached, so that packages installed since then are seen."""
    plugins.cache_clear()
    _found.cache_clear()


@cache
def plugins() -> tuple[Plugin, ...]:
    """List the installed plugins by name, from their metadata: none is imported."""
    points = ((point, point.dist) for point in entry_points(group="guideflow"))
    found = {Plugin(point.name, point.module, dist.name, dist.version) for point, dist in points if dist}
    return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.distribution)))


@cache
def _found() -> tuple[tuple[Offer, ...], Mapping[Plugin, BaseException]]:
    """Ask every plugin, each module once; return all offers by name, and what those raised that failed."""
    offers: list[Offer] = []
    failed: dict[Plugin, BaseException] = {}
    for plugin in {plugin.module: plugin for plugin in plugins()}.values():
        try:
            offers += _ask(plugin)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module may well call sys.exit
            failed[plugin] = error
    return tuple(sorted(offers, key=lambda offer: (offer.name, offer.plugin.distribution))), failed


def _ask(plugin: Plugin) -> list[Offer]:
    manager = pluggy.PluginManager("guideflow")
    manager.add_hookspecs(hooks)
    # What the module has by now: pluggy would ask for all of its names, and import what loads on demand.
    manager.register(SimpleNamespace(**vars(import_module(plugin.module))))
    found = []
    for kind, hook in HOOKS.items():
        for answer in getattr(manager.hook, hook)():
            for name, made in answer.items():
                if not re.fullmatch(r"[\w.+-]+", name):
                    raise InvalidArgument(f"A hook returned the name {name!r}, which is not letters, digits and .+-_")
                if not isinstance(made, Entry):
                    made = Entry(made, (inspect.getdoc(made) or "").strip().partition("\n")[0])
                found.append(Offer(kind, name, made, plugin))
    return found


def find(kind: str, name: str) -> Offer:
    """Find what provides a name of a kind, `"sampler"`, `"loss"` or `"solver"`.

    Raises:
        UnknownPlugin: If no plugin provides the name.
        BrokenPlugin: If none does, and the plugin that is called like it fails.
        DuplicatePlugin: If several do.
    """
    found = [offer for offer in offers(kind) if offer.name == name]
    if len(found) > 1:
        who = " and ".join(f"{offer.plugin.distribution} ({offer.plugin.module})" for offer in found)
        raise DuplicatePlugin(f"The {kind} {name!r} is provided by {who}. Uninstall one of them.")
    if not found:
        raise not_found(name, kind)
    return found[0]


def offers(kind: str) -> tuple[Offer, ...]:
    """List by name everything of one kind that the plugins provide which can be imported."""
    return tuple(offer for offer in _found()[0] if offer.kind == kind)


def broken() -> Mapping[Plugin, str]:
    """Tell which plugins failed, and in one line why: those whose import or hook raised."""
    return {plugin: reason(error) for plugin, error in _found()[1].items()}


def not_found(name: str, *kinds: str) -> UnknownPlugin | BrokenPlugin:
    """Make the error that says that nothing provides a name: with near matches, and the plugins that failed."""
    what = " or ".join(kinds)
    everything, failed = _found()
    failures = {
        plugin: f"The plugin {plugin.name!r} of {plugin.distribution} ({plugin.module}) failed with {why}."
        for plugin, why in broken().items()
    }
    for plugin, failure in failures.items():
        if plugin.name == name:
            found = BrokenPlugin(f"The {what} {name!r} cannot be loaded. {failure}")
            found.__cause__ = failed[plugin]
            return found
    known = sorted({offer.name for offer in everything if offer.kind in kinds})
    others = [f"There is a {o.kind} of that name: use load_{o.kind}." for o in everything if o.name == name]
    lines = [f"There is no {what} named {name!r}.{did_you_mean(name, known)}"]
    lines += [f"Known names: {', '.join(known) or 'none'}.", *others, *failures.values()]
    return UnknownPlugin(" ".join(lines))
