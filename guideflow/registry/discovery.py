"""Find what installed packages offer, by name.

A plugin is a module named by an entry point of the group `guideflow`. All of them are imported when a name is first
asked for: they are light by contract, and what is not stands behind `Entry("module:Factory")`. Each is guarded, so
one broken plugin never harms another: neither by what it raises nor by never coming to an end, nor by what it changes
of the process.

Of three variables of the environment, `GUIDEFLOW_DISABLE_PLUGINS` lists entry points or distributions that are left
out, by commas, or says `all` for everything but guideflow's own; `GUIDEFLOW_PLUGINS` lists the only ones that are let
in beside those; and `GUIDEFLOW_PLUGIN_TIMEOUT` is how many seconds a plugin may take to answer, 20 by default.
"""

from __future__ import annotations

import inspect
import os
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, distributions, entry_points
from math import nan
from types import SimpleNamespace
from typing import Final

import pluggy

from guideflow._told import did_you_mean, shorten
from guideflow.errors import BrokenPlugin, DuplicatePlugin, InvalidArgument, UnknownPlugin
from guideflow.registry import hooks
from guideflow.registry.entries import Entry, Offer, Plugin, reason
from guideflow.registry.surroundings import put_back

HOOKS: Final = {
    "sampler": "guideflow_samplers",
    "loss": "guideflow_losses",
    "solver": "guideflow_solvers",
    "metric": "guideflow_metrics",
}
"""The kinds of thing that are loaded by name, and the hook that provides each."""

DISABLE: Final = "GUIDEFLOW_DISABLE_PLUGINS"
ALLOW: Final = "GUIDEFLOW_PLUGINS"
TIMEOUT: Final = "GUIDEFLOW_PLUGIN_TIMEOUT"


def refresh() -> None:
    """Forget what is cached, so that packages installed since then are seen."""
    plugins.cache_clear()
    _found.cache_clear()


@cache
def plugins() -> tuple[Plugin, ...]:
    """List the installed plugins that are not disabled, by name, from their metadata: none is imported."""
    found = set(filter(_let_in, map(_described, _points())))
    return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.distribution)))


def _points() -> list[EntryPoint]:
    """List the entry points of all distributions but those whose own list is damaged."""
    try:
        return [*entry_points(group="guideflow")]
    except Exception:  # of one damaged file, which is asked for with the others
        found: list[EntryPoint] = []
        for distribution in distributions():
            with suppress(Exception):
                found += distribution.entry_points.select(group="guideflow")
        return found


def _described(point: EntryPoint) -> Plugin:
    """Read what metadata tell, which may be damaged: then the import says so."""
    try:
        module = point.module
    except AttributeError:  # the value is of no form known
        module = point.value
    try:
        name, version = point.dist.name, point.dist.version  # type: ignore[union-attr]
    except Exception:  # of a distribution without metadata, as an interrupted `pip uninstall` leaves
        name, version = getattr(point.dist, "_normalized_name", None), None
    return Plugin(point.name, module, str(name), str(version))


def _let_in(plugin: Plugin) -> bool:
    def listed(variable: str) -> set[str]:
        return {_canonical(name) for name in os.environ.get(variable, "").split(",")} - {""}

    if plugin.module.partition(".")[0].startswith("guideflow") and _canonical(plugin.distribution) == "guideflow":
        return not {_canonical(plugin.name)} & listed(DISABLE)
    names, only, out = {_canonical(plugin.name), _canonical(plugin.distribution)}, listed(ALLOW), listed(DISABLE)
    return not (names | {"all"}) & out and (not os.environ.get(ALLOW, "").strip() or bool(names & only))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


@cache
def _found() -> tuple[tuple[Offer, ...], Mapping[Plugin, BaseException]]:
    """Ask every plugin, each module once; return all offers by name, and what those raised that failed."""
    offers: list[Offer] = []
    failed: dict[Plugin, BaseException] = {}
    for plugin in {plugin.module: plugin for plugin in plugins()}.values():
        answer = _ask_in_time(plugin)
        if isinstance(answer, BaseException):
            failed[plugin] = answer
        else:
            offers += answer
    return tuple(sorted(offers, key=lambda offer: (offer.name, offer.plugin.distribution))), failed


def _ask_in_time(plugin: Plugin) -> list[Offer] | BaseException:
    """Ask a plugin in a thread of its own, which is left behind if it never answers; return what it raises."""
    answers: list[list[Offer] | BaseException] = []

    def ask() -> None:
        try:
            answers.append(_ask(plugin))
        except BaseException as error:  # a module may well call sys.exit; Ctrl-C goes to the main thread
            answers.append(error)

    seconds = _timeout()
    thread = threading.Thread(target=ask, name=f"guideflow plugin {plugin.name}", daemon=True)
    with put_back(thread):
        thread.start()
        thread.join(seconds)
    if not answers:
        left_out = f"{DISABLE}={plugin.name}"
        return TimeoutError(f"no answer within {seconds:g} seconds; {TIMEOUT}=60 waits longer, {left_out} not at all")
    return answers[0]


def _timeout() -> float:
    given = os.environ.get(TIMEOUT) or "20"
    try:
        seconds = float(given)
    except ValueError:
        seconds = nan
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise InvalidArgument(f"Got {TIMEOUT}={given!r}. Expected a number of seconds.")
    return seconds


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
    """Find what provides a name of a kind, `"sampler"`, `"loss"`, `"solver"` or `"metric"`.

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


def plural(kind: str) -> str:
    """Return the word for several of a kind."""
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"


def not_found(name: str, *kinds: str) -> UnknownPlugin | BrokenPlugin:
    """Make the error that says that nothing provides a name: with near matches, and the plugins that failed."""
    what = " or ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1])))
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
    near, listed = did_you_mean(name, known), f"Known names: {', '.join(known) or 'none'}."
    if near or len(listed) > 300:  # more than anybody reads
        listed = f"`guideflow list{f' {plural(kinds[0])}' if len(kinds) == 1 else ''}` shows all {len(known)} names."
    broke = [shorten(failure, 160) for failure in failures.values()]
    lines = [f"There is no {what} named {shorten(repr(name), 80)}.{near}", listed, *others, *broke]
    return UnknownPlugin(" ".join(lines))
