"""What the code knows about itself, written into the pages: commands from typer, options of plugins from signatures.

A hook of mkdocs. A page says where: `<!-- generated: command run -->` becomes the table of what `guideflow run` takes,
`<!-- generated: losses -->` a section for each loss that guideflow comes with. The notebook goes along as a file.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
_MARK = re.compile(r"^<!-- generated: (\w+)(?: ([\w-]+))? -->$", re.MULTILINE)
_VALUES = {"<path>": "PATH", "<float>": "NUMBER", "<int>": "NUMBER", "<int range>": "NUMBER", "<float range>": "NUMBER"}
_OURS = "guideflow"
"""Other packages' plugins, which may be installed here, are not on the pages."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the page's marks in."""
    return _MARK.sub(lambda found: command(found[2]) if found[1] == "command" else plugins(found[1]), markdown)


def on_files(files: Any, config: Any) -> Any:
    """Put the notebook beside the pages, so that they can link to it."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, NOTEBOOK.name, abs_src_path=str(NOTEBOOK)))
    return files


def commands() -> dict[str, Any]:
    """Every command by name, as click knows it."""
    import typer

    from guideflow.cli.main import app

    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def command(name: str) -> str:
    """Write a table of what a command takes."""
    found = commands()[name]
    context = found.make_context(name, [], resilient_parsing=True)
    records = [parameter.get_help_record(context) for parameter in found.params]
    rows = [_row(*record) for record in records if record is not None]
    return "\n".join(_table(("option", "default", "meaning"), rows))


def _row(typed: str, help: str) -> tuple[str, str, str]:
    """Make a row of what `--help` says: `--out FOLDER` and `Where to. (default: out)`."""
    name, _, value = typed.partition(" ")
    if not name.startswith("-"):
        typed = name.upper()
    elif value.startswith("<"):  # no word of ours, but the type
        typed = f"{name} {_VALUES.get(value, 'TEXT')}"
    found = re.fullmatch(r"(.*?)\s*(?:[(\[](?:default: (.*)|(required))[)\]])?", help, re.DOTALL)
    assert found is not None
    return f"`{typed}`", found[2] or found[3] or "", found[1]


def plugins(kinds: str) -> str:
    """Write a section for each plugin of a kind ("losses"), with a table of its options."""
    from guideflow import registry

    kind = next(kind for kind, hook in registry.HOOKS.items() if hook.removeprefix("guideflow_") == kinds)
    offers = [offer for offer in registry.offers(kind) if offer.plugin.distribution == _OURS]
    known = {offer.name: registry.options(offer.entry.resolve()) or () for offer in offers}
    common = _common(known) if kind == "sampler" else set()
    text = []
    if common:
        rows = {option.name: (f"`{option.name}`", _code(option.type), option.about) for option in _all(known, common)}
        text += [
            "### What most of them take { #sampler }",
            "",
            *_table(("option", "type", "meaning"), rows.values()),
            "",
        ]
    for offer in offers:
        own = [option for option in known[offer.name] if (option.name, option.about) not in common]
        rest = [option for option in known[offer.name] if (option.name, option.about) in common]
        text += [f"### `{offer.name}` {{ #{kind}-{offer.name} }}", "", f"{_sentence(offer.entry.summary)}", ""]
        if own:
            heads = ("option", "type", "default", "meaning")
            text += [*_table(heads, [(f"`{o.name}`", _code(o.type), _given(o.default), o.about) for o in own]), ""]
        if rest:
            given = ", ".join(f"`{o.name}`" if o.default is None else f"`{o.name}={o.default}`" for o in rest)
            text += [f"And [what most take](#sampler): {given}.", ""]
        if not own and not rest:
            text += ["It takes no option.", ""]
    return "\n".join(text)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _common(known: dict[str, Any]) -> set[tuple[str, str]]:
    """Options, with what they do, that at least a third of the plugins take."""
    counts = Counter((option.name, option.about) for options in known.values() for option in options)
    return {one for one, times in counts.items() if times >= len(known) / 3}


def _all(known: dict[str, Any], common: set[tuple[str, str]]) -> list[Any]:
    return [option for options in known.values() for option in options if (option.name, option.about) in common]


def _given(default: str | None) -> str:
    return "required" if default is None else _code(default)


def _code(text: str) -> str:
    """Set as code, without the modules that types come from."""
    short = re.sub(r"\b(?:[a-z_]\w*\.)+(\w+)", r"\1", text)
    return f"`{short}`" if short else ""


def _table(heads: tuple[str, ...], rows: Any) -> list[str]:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]


def _cell(text: str) -> str:
    """Keep what is no code from being read as markup."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;").replace("|", "&#124;") for part in parts)
