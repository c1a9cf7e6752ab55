"""The options of `guideflow run`, and how NAME:key=value is read."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from guideflow import registry
from guideflow.errors import GuideflowError, InvalidArgument
from guideflow.registry.entries import FILE_NAME
from guideflow.registry.loading import failed

_WEIGHT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*\*\s*")
_WORDS = {"true": True, "false": False, "none": None}

SamplerOption = Annotated[str | None, typer.Option(help="NAME or NAME:key=value,...")]
LossOption = Annotated[
    list[str] | None,
    typer.Option(help="NAME:key=value,... or WEIGHT*NAME:...; NAME may be path/to/file.py:Name; repeat to add losses."),
]
SolverOption = Annotated[str | None, typer.Option(help="NAME or NAME:key=value,...", show_default="auto")]
PromptOption = Annotated[list[str] | None, typer.Option(help="Once for all images, or repeat: one per image.")]
NegativePromptOption = Annotated[list[str] | None, typer.Option(help="What the image should not show; as --prompt.")]
SeedOption = Annotated[
    list[int] | None,
    typer.Option(help="Repeat for several images.", metavar="INTEGER", show_default="0", min=0, max=2**63 - 1),
]
IterationsOption = Annotated[
    int | None, typer.Option(help="Number of updates, those of a resumed run included.", show_default="12", min=0)
]
CandidatesOption = Annotated[
    int | None,
    typer.Option(help="Noises to choose each image's start from, by the loss.", show_default="the solver's", min=1),
]
GradientModeOption = Annotated[
    str | None,
    typer.Option(
        help="full (fastest), windowed, checkpointed (least memory) or auto (what fits); the images are the same.",
        show_default="full",
    ),
]
OutOption = Annotated[Path, typer.Option(help="Folder to save to.")]
CheckpointOption = Annotated[
    int,
    typer.Option(help="Iterations from one save to the next: what a killed process loses at most.", min=1),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run saved in --out.")]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="With --resume: read files outside --out that the run names.")
]

PortOption = Annotated[
    int | None, typer.Option(help="Port of 127.0.0.1.", show_default="7860 or a free one", min=1024, max=65535)
]
OpenOption = Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")]


def load(kind: str, text: str) -> Any:
    """Load the "sampler", "loss" or "solver" that NAME:key=value,... stands for."""
    name, rest = split_name(text)
    given = parse_options(rest, registry.factory(kind, name))
    try:
        return getattr(registry, f"load_{kind}")(name, **given)
    except GuideflowError:
        raise
    except Exception as error:
        raise failed(kind, name, given, error) from error


def split_name(text: str) -> tuple[str, str]:
    """Split what was typed into a name and its options: `NAME:options` or `path/to/file.py:Name:options`."""
    found = re.fullmatch(f"({FILE_NAME.pattern})(?::(.*))?", text, re.DOTALL)
    if found:
        return found[1], found[4] or ""
    name, _, options = text.partition(":")
    return name.strip(), options


def load_losses(texts: list[str]) -> Any:
    """Load and add [WEIGHT*]NAME:key=value,... of each text, at least one."""
    from guideflow.losses.base import as_sum

    total: Any = 0
    for text in texts:
        weight = _WEIGHT.match(text)
        if weight is None and "*" in text.partition(":")[0]:
            raise InvalidArgument(
                f"Got --loss {text!r}. Expected a number before the *, as in 0.5*style:reference=a.png."
            )
        loss = as_sum(load("loss", text[weight.end() :] if weight else text))
        total += float(weight[1]) * loss if weight else loss
    return total


def parse_options(text: str, factory: Callable[..., Any]) -> dict[str, Any]:
    """Read key=value,key=value. A part without = belongs to the value before it, so paths may hold commas.

    A solver inside a solver is written by its name: `momentum:solver=anchored`, and with options in brackets where
    there are several, `momentum:solver=(anchored:scale=2,gain=unit),beta=0.8`.
    The annotations of the factory tell which values stay text.
    """
    parts: list[str] = []
    for part in text.split(",") if text else []:
        inside = bool(parts) and "=(" in parts[-1] and parts[-1].count("(") > parts[-1].count(")")
        if not inside and re.match(r"\s*[A-Za-z_]\w*\s*=", part):
            parts.append(part)
        elif parts:
            parts[-1] += f",{part}"
        else:
            raise InvalidArgument(f"Got the options {text!r}. Expected key=value,key=value as in scale=2,anchor=fixed.")
    types = {option.name: option.type for option in registry.options(factory) or ()}
    pairs = (part.split("=", 1) for part in parts)
    return {key.strip(): parse_value(value.strip(), types.get(key.strip(), "")) for key, value in pairs}


def parse_value(text: str, type: str = "") -> Any:
    """Read a number, true, false, none, a JSON list, or else text; `type` is the annotation of the option.

    A number stays text where text is expected, and a name is loaded where a solver is.
    """
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if re.search(r"Solver\b", type):
        return load("solver", text.removeprefix("(").removesuffix(")") if text.startswith("(") else text)
    if re.search(r"\b(str|Path|PathLike)\b", type) and not re.search(r"\b(int|float)\b", type):
        return text
    for read in (int, float, json.loads) if text.startswith("[") else (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
