"""What sweeps come to: numbers of every configuration at every look, of one family, as rows that a CSV holds."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from guideflow.evaluation.folder import Folder, read_folder
from guideflow.evaluation.results import Evaluation, read_metrics
from guideflow.evaluation.statistics import Comparison, compare, estimate

METRICS = {
    "likeness": "avatars-identity-similarity",
    "guidance": "guidance-loss",
    "prompt": "avatars-prompt-accuracy",
    "denoise": "denoise-error",
    "distance": "distance",
    "seconds": "seconds",
}
"""What tables call each number, and the metric it is."""

DIGITS = {"denoise": 5}
MAIN = {"noise-descent": "lr"}
"""The option that is halved and doubled; `scale` where nothing is said."""

PAPER = {"anchored": 1.0, "unanchored": 1.0, "noise-descent": 0.4, "flowgrad": 1.0}
"""The paper's setting of it."""

Case = tuple[str, str]
Row = dict[str, str]


@dataclass(frozen=True)
class Line:
    """One configuration after some iterations.

    Arguments:
        sweep: Name of its spec.
        solver: Name.
        options: Options of the solver that are not as by default, and the one of `MAIN`.
        last: Iterations that it was solved for.
        iterations: Those after which it is looked at.
        values: Of each metric, the number of each case: reference and prompt.
        failed: Jobs without a picture.
        batch: Pictures that were solved together, at most.
        pictures: Of each case, the guided picture.
    """

    sweep: str
    solver: str
    options: Mapping[str, Any]
    last: int
    iterations: int
    values: Mapping[str, Mapping[Case, float]]
    failed: int
    batch: int
    pictures: Mapping[Case, Path]

    @property
    def factor(self) -> float | None:
        """How many times the paper's setting this is; None if it differs in more than that."""
        main = MAIN.get(self.solver, "scale")
        return self.options[main] / PAPER[self.solver] if [*self.options] == [main] and self.solver in PAPER else None

    @property
    def pairs(self) -> int:
        """Pictures that were judged."""
        return len(self.values["likeness"])

    def number(self, metric: str) -> tuple[float, float, float]:
        """Return the mean of a metric with its 95 % interval, by bootstrap over people."""
        found = self.values[metric]
        made = estimate([*found.values()], [case[0] for case in found])
        return made.mean, made.low, made.high


def difference(first: Mapping[Case, float], second: Mapping[Case, float]) -> Comparison | None:
    """Compare two lines on the cases that both have."""
    cases = [case for case in first if case in second]
    if not cases:
        return None
    return compare([first[case] for case in cases], [second[case] for case in cases], [case[0] for case in cases])


def read(folder: Path) -> list[Line]:
    """Read the sweeps of a family, as far as they are solved and measured."""
    found = []
    for path in sorted(one.parent for one in folder.glob("*/manifest.json")):
        jobs = read_folder(path)
        evaluation = read_metrics(jobs)
        groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
        for row in jobs.rows:
            look = row.get("iteration")
            groups.setdefault((row["config"], row["iterations"] if look is None else look), []).append(row)
        found += [_line(path.name, iterations, rows, evaluation) for (_, iterations), rows in groups.items()]
    return [line for line in found if line.pairs]


def _line(sweep: str, iterations: int, rows: Sequence[Mapping[str, Any]], evaluation: Evaluation) -> Line:
    about = json.loads(rows[0]["options"])
    values: dict[str, dict[Case, float]] = {name: {} for name in METRICS}
    for row in rows:
        for label, found in evaluation.values.items():
            name = next((name for name, metric in METRICS.items() if metric == label.partition(":")[0]), None)
            one = found.get(_key(row))
            if name is None or one is None:
                continue
            missed = name == "likeness" and one.detected is False  # nobody there: no likeness at all
            value = 0.0 if missed else one.value
            if isfinite(value):
                values[name][row["reference"], row["prompt"]] = 1 - value if name == "guidance" else value
    done = [row for row in rows if row["status"] == "done"]
    return Line(
        sweep,
        rows[0]["solver"],
        plain(rows[0]["solver"], about["solver"]["options"]),
        about["solve"]["max_iterations"],
        iterations,
        values,
        len(rows) - len(done),
        max((row["batch"] or 0 for row in rows), default=0),
        _pictures(evaluation.folder, done),
    )


def _key(row: Mapping[str, Any]) -> Any:
    return row.get("key", row["job"])


def _pictures(folder: Folder, rows: Iterable[Mapping[str, Any]]) -> dict[Case, Path]:
    return {(row["reference"], row["prompt"]): folder.picture(row["image"]) for row in rows if row["image"]}


def plain(solver: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out options that are as by default, but for the one of `MAIN`."""
    main, usual = MAIN.get(solver, "scale"), defaults(solver)
    found = {name: value for name, value in options.items() if value != usual.get(name)}
    keep = main in found or (not found and main in usual)
    return {main: options.get(main, usual[main]), **found} if keep else found


@functools.cache
def defaults(solver: str) -> dict[str, Any]:
    """Return every option of a solver as it is by default."""
    from guideflow import registry

    return dict((registry.config(registry.load_solver(solver)) or {"options": {}})["options"])


def row_of(family: str, line: Line, record: Mapping[str, str]) -> Row:
    """Write a line as a row of a CSV; `record` says who solved it where."""
    numbers: dict[str, str] = {}
    for name in METRICS:
        for end, value in zip(("", " low", " high"), line.number(name), strict=True):
            numbers[name + end] = f"{value:.{DIGITS.get(name, 4)}f}" if isfinite(value) else ""
    return {
        "family": family,
        "sweep": line.sweep,
        "solver": line.solver,
        "options": json.dumps(line.options),
        "factor": "" if line.factor is None else f"{line.factor:g}",
        "of": str(line.last),
        "iterations": str(line.iterations),
        "pairs": str(line.pairs),
        "failed": str(line.failed),
        **numbers,
        "batch": str(line.batch),
        **record,
    }


def read_rows(path: Path) -> list[Row]:
    """Read a CSV that may be missing."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
