"""The body of `guideflow list`."""

import re
from typing import Any

from rich.table import Table
from rich.text import Text

from guideflow import registry
from guideflow.cli.console import console, print_json, visible
from guideflow.errors import InvalidArgument
from guideflow.registry.entries import reason

_PLURAL = {"samplers": "sampler", "losses": "loss", "solvers": "solver", "metrics": "metric"}


def show_list(kind: str, as_json: bool = False) -> None:
    """Print the names of the samplers, losses, solvers or metrics that can be loaded; of all if `kind` is empty."""
    if kind and kind not in _PLURAL:
        raise InvalidArgument(f"There is nothing called {kind!r} to list. Type samplers, losses, solvers or metrics.")
    screen, failed = console(), dict(registry.broken())
    wanted = {plural: registry.offers(one) for plural, one in _PLURAL.items() if kind in ("", plural)}
    if as_json:
        broken = {f"{plugin.distribution}:{plugin.name}": why for plugin, why in failed.items()}
        broken |= {str(path): why for path, why in registry.list_presets()[1].items()}
        found = {plural: [summary(offer) for offer in offers] for plural, offers in wanted.items()}
        print_json({**found, "broken": broken})
        return
    for plural, offers in wanted.items():
        width = max([len(offer.name) for offer in offers], default=0)
        screen.print(_table(plural, offers, failed, width))
        screen.print()
    for plugin, why in failed.items():
        line = f"The plugin {plugin.name!r} of {plugin.distribution} could not be loaded: {why}"
        console(stderr=True).print(visible(line), soft_wrap=True)
    for why in registry.list_presets()[1].values():
        console(stderr=True).print(visible(why), soft_wrap=True)


def summary(offer: registry.Offer) -> dict[str, object]:
    """Return what is known of a name without importing what makes it."""
    entry, plugin = offer.entry, offer.plugin
    return {
        "name": offer.name,
        "kind": offer.kind,
        "summary": entry.summary,
        "base": entry.base,
        "steps": entry.steps,
        "weights": entry.weights.removeprefix("weights ") or None,
        "licence": entry.licence,
        "needs": list(entry.needs),
        "extra": entry.extra,
        "domain": entry.domain,
        "presets": of(offer.kind, offer.name),
        "package": f"{plugin.distribution} {plugin.version}",
    }


def of(kind: str, name: str) -> list[dict[str, Any]]:
    """List the presets that are for a sampler, a loss or a solver."""
    return [
        {"sampler": one.sampler, "loss": one.loss, "solver": one.solver, "options": dict(one.options), **one.record()}
        for one in registry.list_presets()[0]
        if getattr(one, kind, None) == name
    ]


def _table(title: str, offers: tuple[registry.Offer, ...], failed: dict[registry.Plugin, str], width: int) -> Table:
    """List what is offered; a plugin whose entry cannot be shown is added to those that failed."""
    table = Table(
        box=None, title=title, title_justify="left", title_style="bold", show_header=False, padding=0, pad_edge=False
    )
    table.add_column(no_wrap=True, style="cyan", min_width=width + 2)
    table.add_column()
    for offer in offers:
        try:
            facts = _facts(offer.entry)
        except Exception as error:  # of metadata that hold other types than they say
            failed[offer.plugin] = reason(error)
            continue
        more = (f"\n{visible(facts)}", "dim") if facts else ""
        table.add_row(offer.name, Text.assemble(visible(offer.entry.summary), more))
    if not offers:
        table.add_row("none installed", "")
    return table


def _facts(entry: registry.Entry) -> str:
    word = "step" if entry.steps == "1" else "steps"
    ends = re.search(r"(\d|more)$", entry.steps or "")  # else there are words behind the first number
    steps = f"{entry.steps} {word}" if ends else re.sub(r"\d+", rf"\g<0> {word}", entry.steps or "", count=1)
    licence = re.sub("^not stated", "licence not stated", re.split(r"[;(]", entry.licence or "")[0].strip())
    return "; ".join(filter(None, (entry.base, steps, entry.weights.removeprefix("weights "), licence)))
