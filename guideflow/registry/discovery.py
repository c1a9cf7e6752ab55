"""Find what installed packages offer, by name, without importing more than is asked for.

A plugin is a module named by an entry point of the group `guideflow`. Entry points are read as metadata on first use;
a module is imported only when a name is asked for: first the entry points called like the name, then, only if they do
not provide it, all others. Each import is guarded, so one broken plugin never harms another.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Final

import pluggy

from guideflow.errors import BrokenPlugin, DuplicatePlugin, MissingExtra, UnknownPlugin
from guideflow.registry import hooks
from guideflow.registry.entries import Entry, Offer, Plugin, is_file, reason

HOOKS: Final = {"sampler": "guideflow_samplers", "loss": "guideflow_losses", "solver": "guideflow_solvers"}
"""The kinds of thing that are loaded by name, and the hook that provides each."""


class _Manager(pluggy.PluginManager):
    """Looks for hooks among what a module has by now, not among what it would import on demand."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """Return the options of a hook, None of anything else."""
        if isinstance(plugin, ModuleType) and name not in vars(plugin):
            return None
        return super().parse_hookimpl_opts(plugin, name)


@dataclass
class _State:
    """The cached registry: entry points once read, modules once imported, the reasons of those that failed."""

    manager: pluggy.PluginManager
    plugins: dict[Plugin, EntryPoint]
    broken: dict[Plugin, Exception] = field(default_factory=dict)


_state: _State | None = None


def refresh() -> None:
    """Forget what is cached, so that packages installed since then are seen."""
    global _state
    _state = None


def _get_state() -> _State:
    global _state
    if _state is None:
        manager = _Manager("guideflow")
        manager.add_hookspecs(hooks)
        found: dict[Plugin, EntryPoint] = {}
        for point in entry_points(group="guideflow"):
            name, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "")
            found.setdefault(Plugin(point.name, point.value, name, version), point)
        _state = _State(manager, found)
    return _state


def plugins() -> tuple[Plugin, ...]:
    """List the installed plugins from their metadata, importing none.

    Returns:
        One entry per entry point of the group `guideflow`, by name.
    """
    return tuple(sorted(_get_state().plugins, key=lambda p: (p.name, p.distribution)))


def _import(plugin: Plugin) -> None:
    """Import a plugin's module and register its hooks, or remember why that failed."""
    state = _get_state()
    if state.manager.has_plugin(plugin.module) or plugin in state.broken:
        return
    try:
        state.manager.register(state.plugins[plugin].load(), name=plugin.module)
    except Exception as error:
        state.broken[plugin] = error


def _offers(kind: str, chosen: list[Plugin]) -> list[Offer]:
    """Everything of one kind that the chosen plugins provide. A module shared by several entry points counts once."""
    state = _get_state()
    for plugin in chosen:
        _import(plugin)
    by_module = {plugin.module: plugin for plugin in reversed(chosen) if plugin not in state.broken}
    offers = []
    for implementation in getattr(state.manager.hook, HOOKS[kind]).get_hookimpls():
        if implementation.plugin_name not in by_module:
            continue
        plugin = by_module[implementation.plugin_name]
        try:
            for name, made in implementation.function().items():
                entry = made if isinstance(made, Entry) else Entry(made, _summary(made))
                offers.append(Offer(kind, name, entry, plugin))
        except Exception as error:
            state.broken[plugin] = error
    return offers


def _summary(factory: Callable[..., Any]) -> str:
    return (inspect.getdoc(factory) or "").strip().partition("\n")[0]


def find(kind: str, name: str) -> Offer:
    """Find what provides a name, importing as little as possible.

    Arguments:
        kind: `"sampler"`, `"loss"` or `"solver"`.
        name: The name users type; of a loss also `path/to/file.py:Name`, without any packaging.

    Returns:
        The entry with its plugin.

    Raises:
        UnknownPlugin: If no plugin provides the name.
        BrokenPlugin: If the plugin of that name fails, and no other provides it.
        DuplicatePlugin: If several do.
        MissingExtra: If the plugin of that name needs a package that is not installed.
    """
    if kind == "loss" and is_file(name):
        from guideflow.registry.files import factory_from_file  # needs torch

        factory, path = factory_from_file(name)
        return Offer(kind, name, Entry(factory, _summary(factory)), Plugin(name, path, path, ""))
    everyone = list(plugins())
    namesakes = [plugin for plugin in everyone if plugin.name == name]
    for chosen in (namesakes, everyone):
        offers = [offer for offer in _offers(kind, chosen) if offer.name == name]
        if len(offers) > 1:
            raise DuplicatePlugin(_duplicate(kind, name, offers))
        if offers:
            return offers[0]
    failed = {plugin: _get_state().broken[plugin] for plugin in namesakes if plugin in _get_state().broken}
    for plugin, error in failed.items():
        if isinstance(error, MissingExtra):
            raise error
        raise BrokenPlugin(f"The {kind} {name!r} cannot be loaded. {_failure(plugin, error)}") from error
    raise UnknownPlugin(_unknown(kind, name))


def offers(kind: str) -> tuple[Offer, ...]:
    """List everything of one kind, for listings. Imports every plugin's module, which are light by contract.

    Arguments:
        kind: `"sampler"`, `"loss"` or `"solver"`.

    Returns:
        What the plugins that can be imported provide, by name.
    """
    return tuple(sorted(_offers(kind, list(plugins())), key=lambda offer: offer.name))


def broken() -> Mapping[Plugin, str]:
    """Tell which plugins failed so far, and why.

    Returns:
        One reason on one line for each plugin whose import or hook raised.
    """
    return {plugin: reason(error) for plugin, error in _get_state().broken.items()}


def _failure(plugin: Plugin, error: Exception) -> str:
    return f"The plugin {plugin.name!r} of {plugin.distribution} ({plugin.module}) failed with {reason(error)}."


def _duplicate(kind: str, name: str, offers: list[Offer]) -> str:
    who = " and ".join(f"{offer.plugin.distribution} ({offer.plugin.module})" for offer in offers)
    return f"The {kind} {name!r} is provided by {who}. Uninstall one of them."


def _unknown(kind: str, name: str) -> str:
    lines = [unknown(kind, name, [offer.name for offer in offers(kind)])]
    for other in HOOKS:
        if other != kind and any(offer.name == name for offer in offers(other)):
            lines.append(f"There is a {other} of that name: use load_{other}.")
    lines += [_failure(plugin, error) for plugin, error in sorted(_get_state().broken.items(), key=lambda i: i[0].name)]
    return " ".join(lines)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, with near matches.

    Arguments:
        kind: What was looked for.
        name: As typed.
        known: The names there are.

    Returns:
        One line.
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    guess = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"There is no {kind} named {name!r}.{guess} Known names: {', '.join(names) or 'none'}."
