"""A judge must not be who guided: its weights are compared with those of the guiding loss."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from guideflow import registry
from guideflow.errors import InvalidArgument
from guideflow.evaluation.folder import Folder, options_of
from guideflow.losses.fingerprints import Fingerprint, fingerprints
from guideflow.metrics.base import Metric
from guideflow.storage.recipes import plugins


class SameArchitecture(UserWarning):
    """Says that a judge is built as the network that guided, though its weights are others."""


class UnknownGuidance(UserWarning):
    """Says that nothing is known about the network that guided."""


@dataclass(frozen=True)
class Guidance:
    """The networks that guided the pictures of a folder.

    Arguments:
        weights: SHA-256 of them, and of their parts.
        architectures: SHA-256 of how they are built.
        unknown: Losses whose networks could not be looked at, with the reason.
    """

    weights: frozenset[str]
    architectures: frozenset[str]
    unknown: tuple[str, ...] = ()


def guidance(folder: Folder) -> Guidance:
    """Find the networks that guided: as the table says, and by loading the losses once more, without running files."""
    weights: set[str] = set()
    found: list[Fingerprint] = []
    unknown = []
    for text in {row.get("weights") for row in folder.rows}:
        weights |= _hashes(text)
    told = all(row.get("weights") for row in folder.done)  # by the table; loading tells the parts besides
    for name, options, row in _losses(folder):
        try:
            found += _look_through(name, options | _reference(folder, row, name, options))
        except Exception as error:  # whatever a plugin raises: what is not known is told
            if not told:
                unknown.append(f"{name} ({' '.join(str(error).split())[:160]})")
    for one in found:
        weights |= one.parts
    return Guidance(frozenset(weights), frozenset(one.architecture for one in found), tuple(unknown))


def require_held_out(metric: Metric, name: str, guided: Guidance) -> dict[str, str]:
    """Refuse a metric that judges by a network that guided; warn of one that is built alike.

    Returns:
        SHA-256 of the metric's networks, by the place where each was found.

    Raises:
        InvalidArgument: If weights are the same.
    """
    mine = fingerprints(metric.judges())
    for place, one in mine.items():
        if guided.weights & {one.weights, *one.parts}:
            raise InvalidArgument(
                f"The metric {name!r} judges by weights that guided the pictures ({place}, SHA-256 "
                f"{one.weights[:12]}...). A network that was optimised against finds what it likes: take a metric with "
                "a network of its own; `guideflow list metrics` shows them."
            )
        if one.architecture in guided.architectures:
            warnings.warn(
                f"The metric {name!r} judges by a network that is built as the one that guided, with other weights: "
                "what fools one may fool both.",
                SameArchitecture,
                stacklevel=2,
            )
    if mine and guided.unknown:
        warnings.warn(
            f"What guided is not known, so that nobody can tell whether {name!r} is held out: {guided.unknown[0]}.",
            UnknownGuidance,
            stacklevel=2,
        )
    return {place: one.weights for place, one in mine.items()}


def _hashes(column: Any) -> set[str]:
    try:
        named = json.loads(column or "{}")
    except (TypeError, ValueError):
        return set()
    return {text for text in named.values() if isinstance(text, str)} if isinstance(named, Mapping) else set()


def _losses(folder: Folder) -> Iterator[tuple[str, dict[str, Any], Mapping[str, Any]]]:
    """List the losses of a folder, each with its options and some row of its own, once."""
    seen, texts = set(), set()
    for row in folder.rows:
        written = row["loss"], row["options"]
        if written in texts:  # of many jobs of a configuration
            continue
        texts.add(written)
        given = row["configs"].get("loss") if row.get("configs") else options_of(row).get("loss", {})
        parts = [one for one in plugins(given) if isinstance(one.get("name"), str)]
        if not parts:  # options written plainly, beside the name in a column of its own
            plain = given if isinstance(given, dict) else {}
            parts = [{"name": name, "options": plain} for name in _names(str(row["loss"]))]
        for part in parts:
            options = {key: value for key, value in part["options"].items() if key != "device"}
            key = json.dumps([part["name"], {k: v for k, v in options.items() if k != "reference"}], sort_keys=True)
            if key not in seen:
                seen.add(key)
                yield part["name"], options, row


def _names(text: str) -> list[str]:
    """Take a sum of losses, as tables write it, apart: `0.5 * style + identity`."""
    return [one.rpartition("*")[2].strip() for one in text.split("+")]


def _reference(folder: Folder, row: Mapping[str, Any], name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Put the reference of a row in where a loss takes it: as `reference`, or where a sweep says so."""
    place = folder.reference(row)
    if place is None or registry.is_file(name):
        return {}
    if marked := [key for key, value in options.items() if value == "{reference}"]:
        return dict.fromkeys(marked, str(place))
    taken = registry.options(registry.factory("loss", name)) or ()
    return {"reference": str(place)} if any(one.name == "reference" for one in taken) else {}


def _look_through(name: str, options: dict[str, Any]) -> list[Fingerprint]:
    if registry.is_file(name):
        raise InvalidArgument("a loss from a file, whose code is not run")
    if registry.find("loss", name).entry.weights == "weights to download":
        raise InvalidArgument("its weights are not on this machine")
    if options.get("allow_pickle"):
        raise InvalidArgument("weights that run code while they load")
    return [*fingerprints(registry.load_loss(name, **options)).values()]
