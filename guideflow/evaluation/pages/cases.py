"""The pictures of a report: one case is a reference, a prompt and a seed, with a picture of every configuration."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

from guideflow._require import require
from guideflow.errors import InvalidImage
from guideflow.evaluation.folder import EXTRA
from guideflow.evaluation.summary import Summary
from guideflow.evaluation.tables import NONE, number
from guideflow.images import read_image, to_pil
from guideflow.metrics import Measured

SIDE = 192
MOST = 480
"""Pictures on a page: some megabytes."""


@dataclass(frozen=True)
class Shot:
    """One picture of a case.

    Arguments:
        config: Key of the configuration.
        picture: As a data URL; empty where there is none.
        lines: What was measured, to read.
        why: Why there is no picture, or what was not found in it.
    """

    config: str
    picture: str
    lines: tuple[tuple[str, str], ...]
    why: str


@dataclass(frozen=True)
class Exhibit:
    """A case with its pictures.

    Arguments:
        reference: As a data URL; empty where there is none.
        about: How the reference is called.
        prompt: The prompt.
        seed: The seed.
        unguided: As a data URL; empty where there is none.
        shots: One of each configuration that has the case.
        values: Number of each metric, misses as zero, by configuration: what cases are sorted by.
    """

    reference: str
    about: str
    prompt: str
    seed: int
    unguided: str
    shots: tuple[Shot, ...]
    values: Mapping[str, Mapping[str, float]]


def exhibits(summary: Summary, count: int) -> tuple[list[Exhibit], int]:
    """Show the worst cases by the main metric, on average over configurations, the worst first.

    Returns:
        The cases, and how many there are in all.
    """
    groups: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for one in summary.configurations:
        for row in one.rows:
            key = (row.get("reference") or "", row.get("prompt") or "", row.get("seed") or 0)
            groups.setdefault(key, {})[one.key] = row
    lower = summary.metrics[summary.main].better == "lower"

    def badness(key: tuple[Any, ...]) -> float:
        found = [_value(summary, summary.main, row) for row in groups[key].values()]
        known = [value for value in found if value is not None]
        mean = sum(known) / len(known) if known else inf
        return -mean if lower else mean

    order = sorted(groups, key=badness)
    fit = max(1, MOST // (len(summary.configurations) + 2)) if count else 0
    return [_exhibit(summary, key, groups[key]) for key in order[: min(count, fit)]], len(order)


def _value(summary: Summary, label: str, row: Mapping[str, Any]) -> float | None:
    found = summary.evaluation.values[label].get(row["key"])
    if found is not None and isfinite(found.value):
        return found.value
    looks = any(cell.rate for (_, which), cell in summary.cells.items() if which == label)
    miss = row["status"] == "failed" or (found is not None and found.detected is False)
    return 0.0 if looks and miss else None


def _exhibit(summary: Summary, key: tuple[Any, ...], rows: Mapping[str, Mapping[str, Any]]) -> Exhibit:
    folder, some = summary.evaluation.folder, next(iter(rows.values()))
    plain = next((row["unguided"] for row in rows.values() if row.get("unguided")), None)
    return Exhibit(
        reference=thumbnail(folder.reference(some)),
        about=Path(key[0]).stem,
        prompt=key[1],
        seed=key[2],
        unguided=thumbnail(folder.picture(plain)) if plain else "",
        shots=tuple(_shot(summary, config, row) for config, row in rows.items()),
        values={
            config: {label: value for label in summary.metrics if (value := _value(summary, label, row)) is not None}
            for config, row in rows.items()
        },
    )


def _shot(summary: Summary, config: str, row: Mapping[str, Any]) -> Shot:
    found = {label: values.get(row["key"], Measured()) for label, values in summary.evaluation.values.items()}
    picture = thumbnail(summary.evaluation.folder.picture(row["image"])) if row["image"] else ""
    notes = [row.get("error") or "", *(one.note for one in found.values() if one.detected is False)]
    return Shot(
        config, picture, tuple(_lines(summary, found)), next(filter(None, notes), "" if picture else "no picture")
    )


def _lines(summary: Summary, found: Mapping[str, Measured]) -> Iterator[tuple[str, str]]:
    for label, about in summary.metrics.items():
        text = number(found[label].value, about)
        if text != NONE or found[label].note:
            yield label, text if text != NONE else found[label].note


def thumbnail(path: Path | None) -> str:
    """Return a picture, made small, as a data URL; empty where there is none that can be read."""
    if path is None:
        return ""
    try:
        picture = to_pil(read_image(path))
    except InvalidImage:
        return ""
    picture.thumbnail((SIDE, SIDE), require("PIL.Image", extra=EXTRA).Resampling.LANCZOS)
    picture.save(content := io.BytesIO(), format="JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def failures(summary: Summary, most: int = 100) -> tuple[Sequence[Mapping[str, Any]], int]:
    """List the jobs that failed, each with the title of its configuration in the end, and count them all."""
    titles = {one.key: one.title for one in summary.configurations}
    ends = summary.evaluation.folder.ends
    found = [{**row, "title": titles[row["group"]]} for row in ends if row["status"] != "done"]
    return found[:most], len(found)
