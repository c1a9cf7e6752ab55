"""The body of `guideflow info`."""

import re
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from guideflow import registry
from guideflow.cli.console import console, print_json, visible
from guideflow.cli.listing import of, summary
from guideflow.registry.references import bundled_names


def show_info(name: str, as_json: bool = False) -> None:
    """Print what a name stands for, once for each kind that has it."""
    found = [offer for kind in registry.HOOKS for offer in registry.offers(kind) if offer.name == name]
    if not found:
        raise registry.not_found(name, *registry.HOOKS)
    if as_json:
        print_json([summary(offer) | _more(offer) for offer in found])
        return
    for offer in found:
        _show(console(), offer)


def _show(screen: Console, offer: registry.Offer) -> None:
    entry = offer.entry
    of = f", a {offer.kind} of {offer.plugin.distribution} {offer.plugin.version}"
    screen.print(Text.assemble((offer.name, "bold cyan"), of))
    screen.print(f"  {visible(entry.summary)}")
    more = _more(offer)
    facts = {
        "licence": entry.licence or "no weights of its own",
        "commercial use": entry.commercial,
        "needs": ", ".join(entry.needs) or "nothing",
        "pictures": entry.domain and f"{entry.domain} only",
        "base": entry.base,
        "steps": entry.steps,
        "install": entry.extra and f"pip install 'guideflow[{entry.extra}]'",
        "weights": "included" if entry.downloads == () else "\n".join(more["downloads"]),
        "parameters": entry.footprint and entry.footprint.parameters(),
        "memory": "\n".join(more["memory"]),
        "cards": entry.footprint
        and f"{_typed(entry.footprint.cards())}\n(derived from the memory in bfloat16, not measured)",
        "default for": " and ".join(f"{size} GB cards" for size in entry.default_for),
        "bundled": ", ".join(more["bundled"]),
        "presets": "\n".join(map(_line, more["presets"])),
        **more["facts"],
    }
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(style="dim", no_wrap=True)
    for fact, text in facts.items():
        if text:
            table.add_row(visible(fact), visible(text))
    screen.print(table)
    options = more["options"]
    if options is None:
        screen.print("  options: not told by its signature\n")
        return
    screen.print("  options:" if options else "  options: none")
    for option in options:
        default = "required" if option["default"] is None else option["default"]
        value = f"{_alternatives(option['type'])} = {default}".lstrip(" =")
        # What it is stands above what it does: beside each other, neither has room in 80 columns.
        head = Text.assemble((option["name"], "cyan"), "  ", (visible(value), "dim"))
        screen.print(Padding(head, (0, 0, 0, 4)))
        if option["about"]:
            screen.print(Padding(visible(option["about"]), (0, 0, 0, 8)))
    required = ",".join(f"{option['name']}=..." for option in options if option["default"] is None)
    typed = f"{offer.name}:{required}" if required else offer.name
    command = "evaluate FOLDER" if offer.kind == "metric" else "run"
    screen.print(f"  use: guideflow {command} --{offer.kind} {typed} ...\n")


def _line(preset: dict[str, Any]) -> str:
    """Write a preset: what of sampler, loss and solver it is for, its options, when they were found."""
    options = ", ".join(f"{key}={value}" for key, value in preset["options"].items())
    date = f", {preset['date']}" if preset["date"] else ""
    return f"{preset['name']}: {options} ({preset['origin']}{date})"


def _more(offer: registry.Offer) -> dict[str, Any]:
    """Return what is known once the factory is imported."""
    entry, made = offer.entry, offer.entry.resolve()
    options = registry.options(made)
    return {
        "downloads": [f"{part}, {'present' if part.present() else 'to download'}" for part in entry.downloads or ()],
        "memory": list(entry.footprint.lines()) if entry.footprint else [],
        "bundled": list(bundled_names(entry.pictures)) if entry.pictures else [],
        "facts": dict(entry.facts),
        "presets": of(offer.kind, offer.name),
        "options": options
        and [
            {
                "name": option.name,
                "type": re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", option.type),
                "default": option.default,
                "about": option.about,
            }
            for option in options
        ],
    }


def _alternatives(type: str) -> str:
    """Write an annotation without what only Python needs: Union[Literal['a', 'b'], int] as 'a' | 'b' | int."""
    plain = re.sub(r"Literal\[([^\]]*)\]", lambda found: found[1].replace(", ", " | "), type)
    return re.sub(r"^Union\[(.*)\]$", lambda found: re.sub(r", (?![^\[]*\])", " | ", found[1]), plain)


def _typed(text: str) -> str:
    """Write options of Python as they are typed."""
    return re.sub(r"gradient_mode='(\w+)'", r"--gradient-mode \1", text).replace("=False", "=false")
