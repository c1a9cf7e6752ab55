"""How what is typed for a part is read: [WEIGHT*]NAME:key=value,..."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guideflow import registry
from guideflow.errors import GuideflowError, InvalidArgument
from guideflow.registry.entries import FILE_NAME
from guideflow.registry.loading import failed

_WEIGHT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*\*\s*")
_WORDS = {"true": True, "false": False, "none": None}


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


def name_of_loss(text: str) -> str:
    """Return the name in [WEIGHT*]NAME:options; a * in the options is no weight's."""
    weight = _WEIGHT.match(text)
    return split_name(text[weight.end() :] if weight else text)[0]


def load_losses(texts: list[str], references: Path | None = None) -> Any:
    """Load and add [WEIGHT*]NAME:key=value,... of each text, at least one.

    Arguments:
        texts: As typed.
        references: What a loss has as its reference that takes one and is given none.
    """
    from guideflow.losses.base import Term, WeightedSum, as_sum

    total: Any = 0
    for text in texts:
        weight = _WEIGHT.match(text)
        if weight is None and "*" in text.partition(":")[0]:
            raise InvalidArgument(
                f"Got --loss {text!r}. Expected a number before the *, as in 0.5*style:reference=a.png."
            )
        typed = text[weight.end() :] if weight else text
        loss = load("loss", typed if references is None else _with_reference(typed, references))
        if isinstance(loss, WeightedSum) and (weight or len(texts) > 1):
            name = loss.name or split_name(typed)[0].rpartition(":")[2]
            loss = WeightedSum((Term(1.0, loss, name),))  # stays one term, which can be loaded again by its name
        if weight is None and len(texts) == 1:
            return loss
        total += (float(weight[1]) if weight else 1.0) * as_sum(loss)
    return total


def _with_reference(text: str, folder: Path) -> str:
    name, rest = split_name(text)
    made = registry.factory("loss", name)
    takes = any(option.name == "reference" for option in registry.options(made) or ())
    if not takes or "reference" in parse_options(rest, made):
        return text
    return f"{name}:{','.join(filter(None, (rest, f'reference={folder}')))}"


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
    found: dict[str, Any] = {}
    for key, _, value in (part.partition("=") for part in parts):
        if (name := key.strip()) in found:
            raise InvalidArgument(f"Got {name} twice in {text!r}. Give it once.")
        found[name] = parse_value(value.strip(), types.get(name, ""))
    return found


def parse_value(text: str, type: str = "") -> Any:
    """Read a number, true, false, none, a JSON list, or else text; `type` is the annotation of the option.

    A number stays text where text is expected, and a name is loaded where a solver is.
    """
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":  # as messages write it
        return text[1:-1]
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if re.search(r"Solver\b", type):
        if text.startswith("(") != text.endswith(")"):
            raise InvalidArgument(
                f"Got the solver {text!r}. Expected brackets on both sides, as in (anchored:scale=2)."
            )
        return load("solver", text[1:-1] if text.startswith("(") else text)
    if re.search(r"\b(str|Path|PathLike)\b", type) and not re.search(r"\b(int|float)\b", type):
        return text
    for read in (int, float, json.loads) if text.startswith("[") else (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
