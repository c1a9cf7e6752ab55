"""What has been measured in a folder: in memory, and in its `metrics.parquet`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path

from guideflow._require import require
from guideflow.errors import InvalidArgument
from guideflow.evaluation.folder import EXTRA, METRICS, Folder, read_folder, write_table
from guideflow.evaluation.protocols import Protocol, protocol_of
from guideflow.metrics.base import Measured

_SCHEMA = (
    ("job", "text"),
    ("iteration", "whole"),
    ("metric", "text"),
    ("value", "number"),
    ("detected", "flag"),
    ("note", "text"),
)


@dataclass(frozen=True)
class About:
    """What tables need to know of a metric.

    Arguments:
        better: "higher", "lower" or "neither".
        unit: Of its numbers.
        digits: Shown after the point.
        paired: Whether two pictures of one case can be compared.
        weights: SHA-256 of its networks, by place.
        guideflow: The version that measured.
        warnings: What is to be known about the judge.
    """

    better: str = "higher"
    unit: str = ""
    digits: int = 3
    paired: bool = True
    weights: Mapping[str, str] | None = None
    guideflow: str = ""
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Evaluation:
    """The pictures of a folder and what was measured on them.

    Arguments:
        folder: The jobs.
        metrics: What is known about each metric, by its label: its name with the options it was given.
        values: For each metric, what it said of each row that has a picture, by its key.
        protocol: The protocol that was followed, if one was.
    """

    folder: Folder
    metrics: Mapping[str, About]
    values: Mapping[str, Mapping[str, Measured]]
    protocol: Protocol | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is to be known about the judges."""
        return tuple(dict.fromkeys(line for about in self.metrics.values() for line in about.warnings))


def read_evaluation(folder: str | Path) -> Evaluation:
    """Read what `evaluate` has measured in a folder.

    Raises:
        InvalidArgument: If nothing has been.
    """
    found = read_metrics(read_folder(folder))
    if not found.metrics:
        path = found.folder.path
        raise InvalidArgument(f"Nothing has been measured in {path} yet. Type: guideflow evaluate {path}")
    return found


def read_metrics(jobs: Folder) -> Evaluation:
    """Read what has been measured of some jobs; nothing where nothing has been."""
    path = jobs.path / METRICS
    if not path.is_file():
        return Evaluation(jobs, {}, {})
    parquet = require("pyarrow.parquet", extra=EXTRA)
    keys = {(row["job"], row.get("iteration")): row["key"] for row in jobs.rows}
    try:
        table = parquet.read_table(path)
        text = json.loads((table.schema.metadata or {})[b"guideflow"])
        about = {label: About(**one) for label, one in text["metrics"].items()}
        rule = None if text["protocol"] is None else protocol_of(text["protocol"], path)
        values: dict[str, dict[str, Measured]] = {label: {} for label in about}
        for row in table.to_pylist():
            if key := keys.get((row["job"], row["iteration"])):
                value = nan if row["value"] is None else row["value"]
                values[row["metric"]][key] = Measured(value, row["detected"], row["note"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"{path} is damaged ({why(error)[:120]}). Delete it and evaluate again.") from error
    return Evaluation(jobs, about, values, rule)


def write_metrics(found: Evaluation) -> None:
    """Write `metrics.parquet`, whole or not at all."""
    at = {row["key"]: {"job": row["job"], "iteration": row.get("iteration")} for row in found.folder.rows}
    rows = [
        {**at[key], "metric": label, **one._asdict(), "value": one.value if isfinite(one.value) else None}
        for label, values in found.values.items()
        for key, one in values.items()
    ]
    rule = None if found.protocol is None else asdict(found.protocol)
    text = json.dumps({"metrics": {label: asdict(one) for label, one in found.metrics.items()}, "protocol": rule})
    write_table(found.folder.path / METRICS, rows, _SCHEMA, text)


def why(error: BaseException) -> str:
    """Write an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
