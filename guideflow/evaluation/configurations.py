"""What configurations of a sweep differ in, and what they are called."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guideflow.evaluation.folder import options_of

_NOT = "\N{EN DASH}"
"""Stands for an option that a configuration does not have."""


@dataclass(frozen=True)
class Configuration:
    """Jobs that differ in reference, prompt and seed only, after so many iterations.

    Arguments:
        key: As the table has it, with the iteration if that is not the end.
        title: What tables call it: what it differs in from others.
        options: The options in which configurations differ, by a short name.
        rows: Its jobs.
    """

    key: str
    title: str
    options: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]


def configurations(rows: Sequence[Mapping[str, Any]]) -> tuple[Configuration, ...]:
    """Group jobs by configuration and by the iteration they were looked at, in the order in which they come."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    looked = any(row["key"] != row["job"] for row in rows)
    options = {key: _options(group[0], looked) for key, group in groups.items()}
    names = list(dict.fromkeys(name for found in options.values() for name in found))
    differing = {name: parts for name in names if (parts := _differing(name, list(options.values())))}
    short = _short([*differing])
    found, taken = [], set[str]()
    for key, group in groups.items():
        mine = options[key]
        values = {
            new: mine.get(name, _NOT) if _part(name, mine) in differing[name] else _NOT for name, new in short.items()
        }
        title = title_of(values) or str(group[0]["solver"])
        title = title if title not in taken else f"{title} [{key[:6]}]"
        taken.add(title)
        found.append(Configuration(key, title, values, tuple(group)))
    return tuple(found)


def _part(name: str, options: Mapping[str, Any]) -> Any:
    """Return the name of the part that an option is of; None for other options."""
    kind = name.partition(".")[0]
    return options[kind] if kind != name and kind in ("sampler", "loss", "solver") else None


def _differing(name: str, options: Sequence[Mapping[str, Any]]) -> set[Any]:
    """Return the parts in whose configurations an option differs, so that it says more than the part's name."""
    found: dict[Any, set[str]] = {}
    for one in options:
        found.setdefault(_part(name, one), set()).add(shown(one.get(name, _NOT)))
    return {part for part, values in found.items() if len(values) > 1}


def _options(row: Mapping[str, Any], looked: bool) -> dict[str, Any]:
    parts = {name: str(row[name]) for name in ("sampler", "loss", "solver")}
    rest = {name: value for name, value in _flat(options_of(row)).items() if name not in parts}
    rest = {name: value for name, value in rest.items() if not name.endswith((".name", ".reference"))}
    return parts | rest | ({"iteration": row["iteration"]} if looked else {})


def _flat(options: Any, start: str = "") -> dict[str, Any]:
    """Write nested options as one mapping of dotted names, without the words that are the same everywhere."""
    inner: Iterable[tuple[str, Any]] = ()
    if isinstance(options, Mapping):
        inner = options.items()
    elif isinstance(options, list) and any(isinstance(one, Mapping) for one in options):
        inner = ((str(i), one) for i, one in enumerate(options)) if len(options) > 1 else [("", options[0])]
    else:
        return {start.removesuffix("."): options}
    found: dict[str, Any] = {}
    for key, value in inner:
        found |= _flat(value, start if key in ("options", "") else f"{start}{key}.")
    return found


def _short(names: Sequence[str]) -> dict[str, str]:
    """Call options by their last word where that tells them apart."""
    ends = [name.rpartition(".")[2] for name in names]
    return {name: end if ends.count(end) == 1 else name for name, end in zip(names, ends, strict=True)}


def title_of(values: Mapping[str, Any]) -> str:
    """Write options as a title, without those that a configuration does not have."""
    plain = {"sampler", "loss", "solver"}
    words = [
        shown(value) if name in plain else f"{name}={shown(value)}" for name, value in values.items() if value != _NOT
    ]
    return ", ".join(words)


def shown(value: Any) -> str:
    """Write the value of an option."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
