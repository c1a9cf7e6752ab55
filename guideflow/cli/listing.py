"""The bodies of `guideflow list` and `guideflow info`."""

import re

from rich.console import Console
from rich.table import Table
from rich.text import Text

from guideflow import registry
from guideflow.cli.console import console, visible
from guideflow.errors import InvalidArgument
from guideflow.registry.entries import reason
from guideflow.registry.loading import arguments

_PLURAL = {"samplers": "sampler", "losses": "loss", "solvers": "solver", "metrics": "metric"}


def show_list(kind: str) -> None:
    """Print the names of the samplers, losses, solvers or metrics that can be loaded; of all if `kind` is empty."""
    if kind and kind not in _PLURAL:
        raise InvalidArgument(f"There is nothing called {kind!r} to list. Type samplers, losses, solvers or metrics.")
    screen, failed = console(), dict(registry.broken())
    for plural, singular in _PLURAL.items():
        if kind in ("", plural):
            screen.print(_table(plural, registry.offers(singular), failed))
            screen.print()
    for plugin, why in failed.items():
        line = f"The plugin {plugin.name!r} of {plugin.distribution} could not be loaded: {why}"
        console(stderr=True).print(visible(line), soft_wrap=True)


def _table(title: str, offers: tuple[registry.Offer, ...], failed: dict[registry.Plugin, str]) -> Table:
    """List what is offered; a plugin whose entry cannot be shown is added to those that failed."""
    table = Table(
        box=None, title=title, title_justify="left", title_style="bold", show_header=False, padding=(0, 2, 0, 2)
    )
    table.add_column(no_wrap=True, style="cyan")
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
    steps = "" if not entry.steps else f"{entry.steps} step" + ("" if entry.steps == "1" else "s")
    return "; ".join(filter(None, (entry.base, steps, entry.weights, entry.licence)))


def show_info(name: str) -> None:
    """Print what a name stands for, once for each kind that has it."""
    found = [offer for kind in registry.HOOKS for offer in registry.offers(kind) if offer.name == name]
    if not found:
        raise registry.not_found(name, *registry.HOOKS)
    for offer in found:
        _show(console(), offer)


def _show(screen: Console, offer: registry.Offer) -> None:
    entry, factory = offer.entry, offer.entry.resolve()
    of = f", a {offer.kind} of {offer.plugin.distribution} {offer.plugin.version}"
    screen.print(Text.assemble((offer.name, "bold cyan"), of))
    screen.print(f"  {visible(entry.summary)}")
    downloads = [f"{part}, {'present' if part.present() else 'to download'}" for part in entry.downloads or ()]
    facts = {
        "licence": entry.licence or "no weights of its own",
        "commercial use": entry.commercial,
        "needs": ", ".join(entry.needs) or "nothing",
        "base": entry.base,
        "steps": entry.steps,
        "install": entry.extra and f"pip install 'guideflow[{entry.extra}]'",
        "weights": "included" if entry.downloads == () else "\n".join(downloads),
        "parameters": entry.footprint and entry.footprint.parameters(),
        "memory": entry.footprint and "\n".join(entry.footprint.lines()),
        "cards": entry.footprint and f"{entry.footprint.cards()}\n(derived from the memory in bfloat16, not measured)",
        "default for": " and ".join(f"{size} GB cards" for size in entry.default_for),
    }
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(style="dim", no_wrap=True)
    for fact, text in facts.items():
        if text:
            table.add_row(fact, visible(text))
    screen.print(table)
    options = registry.options(factory)
    if options is None:
        screen.print("  options: not told by its signature\n")
        return
    screen.print("  options:" if options else "  options: none")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 4))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold", max_width=30)
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", arguments(factory), re.MULTILINE)
    texts = {name: " ".join(text.split()) for name, text in found}
    for option in options:
        type = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", option.type)
        value = f"{type} = {'required' if option.default is None else option.default}".lstrip(" =")
        table.add_row(option.name, visible(value), visible(texts.get(option.name, "")))
    screen.print(table)
    required = ",".join(f"{option.name}=..." for option in options if option.default is None)
    typed = f"{offer.name}:{required}" if required else offer.name
    command = "evaluate FOLDER" if offer.kind == "metric" else "run"
    screen.print(f"  use: guideflow {command} --{offer.kind} {typed} ...\n")
