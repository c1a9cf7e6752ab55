"""Protocols: which pictures are compared, and by what; files in YAML, some of which come with guideflow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from guideflow._files import read_small
from guideflow._require import require
from guideflow._told import did_you_mean
from guideflow.errors import InvalidArgument

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Asked:
    """A metric of a protocol.

    Arguments:
        name: As `guideflow list metrics` shows it.
        options: Of its factory.
        optional: Whether it is left out, with a warning, where its network is not there.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    optional: bool = False


@dataclass(frozen=True)
class Protocol:
    """What is compared, and by what.

    Arguments:
        name: The name.
        summary: One line.
        source: What it follows.
        references: How many references there are; what they are is said in `notes`.
        prompts: Prompts of every reference, by kind; "{subject}" stands for what the reference shows.
        seeds: Of every pair.
        metrics: What is measured, beside what needs no network; the first is what cases are sorted by.
        notes: What the user has to bring.
    """

    name: str
    summary: str = ""
    source: str = ""
    references: int = 0
    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    metrics: tuple[Asked, ...] = ()
    notes: str = ""

    @property
    def size(self) -> int:
        """Number of pictures of a configuration."""
        return self.references * sum(map(len, self.prompts.values())) * len(self.seeds)

    def asks(self, subject: str = "person") -> tuple[str, ...]:
        """Return all prompts, about a subject."""
        return tuple(text.replace("{subject}", subject) for group in self.prompts.values() for text in group)


def protocol_names() -> tuple[str, ...]:
    """Names of the protocols that come with guideflow."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_protocol(name: str | Path) -> Protocol:
    """Load a protocol that comes with guideflow, or the YAML file of one.

    Arguments:
        name: One of `protocol_names()`, or a path that ends in .yaml or .yml.

    Raises:
        InvalidArgument: If there is none, or a field of it is not as it should be.
    """
    path = Path(os.path.expanduser(name))
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in protocol_names():
            raise InvalidArgument(
                f"There is no protocol {str(name)!r}.{did_you_mean(str(name), protocol_names())} Known: "
                f"{', '.join(protocol_names())}, or the path of a .yaml file."
            )
        path = _FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise InvalidArgument(f"There is no file {path}. Give the path of a protocol in YAML.")
    yaml = require("yaml", extra="evaluate")
    try:
        found = yaml.safe_load(read_small(path))
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path} is no YAML: {' '.join(str(error).split())[:160]}.") from error
    return protocol_of(found, path)


def protocol_of(found: Any, path: Path) -> Protocol:
    """Make a protocol of plain values; `path` is what messages call them."""
    if not isinstance(found, dict):
        raise InvalidArgument(f"{path} holds a {type(found).__name__}. Expected fields: name, prompts, metrics, ...")
    known = [one.name for one in fields(Protocol)]
    for key in found:
        if key not in known:
            raise InvalidArgument(
                f"{path} has a field {key!r}.{did_you_mean(str(key), known)} Fields: {', '.join(known)}."
            )
    try:
        for key, kind in {"name": str, "summary": str, "source": str, "notes": str, "references": int}.items():
            if not isinstance(found.get(key, kind()), kind):
                raise TypeError(f"{key} is a {type(found[key]).__name__}, not a {kind.__name__}")
        prompts = {str(key): tuple(map(_text, texts)) for key, texts in found.get("prompts", {}).items()}
        seeds = tuple(map(int, found.get("seeds", (0,))))
        metrics = tuple(map(_asked, found.get("metrics", ())))
        if not found.get("name"):
            raise TypeError("it has no name")
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidArgument(f"{path} is no protocol: {error}. See one of those that come with guideflow.") from error
    return Protocol(**{**found, "prompts": prompts, "seeds": seeds, "metrics": metrics})


def _asked(one: Any) -> Asked:
    given, known = {"name": one} if isinstance(one, str) else one, [one.name for one in fields(Asked)]
    if not isinstance(given, dict) or not isinstance(given.get("name"), str) or not {*given} <= {*known}:
        raise TypeError(f"the metric {one!r} is no name, and no mapping of {', '.join(known)}, of which name is needed")
    return Asked(**given)


def _text(one: Any) -> str:
    if not isinstance(one, str):
        raise TypeError(f"the prompt {one!r} is a {type(one).__name__}, not a text")
    return one
