"""What an evaluation comes to: means with intervals for each configuration, and comparisons on the same jobs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from math import isfinite, isnan
from typing import Any

from guideflow._told import did_you_mean
from guideflow.errors import InvalidArgument
from guideflow.evaluation.configurations import Configuration, configurations
from guideflow.evaluation.results import About, Evaluation
from guideflow.evaluation.run import FREE
from guideflow.evaluation.statistics import Comparison, Estimate, compare, estimate


@dataclass(frozen=True)
class Cell:
    """One metric of one configuration.

    Arguments:
        mean: Over the pictures that have a number, in which something was detected.
        rate: Share of the jobs in which it was, failed ones among them; None where nothing is looked for.
        zero: Mean with misses as zero; None where nothing is looked for, or where zero would be a good number.
        missing: Pictures without a number for another reason.
        failed: Jobs without a picture.
    """

    mean: Estimate
    rate: Estimate | None
    zero: Estimate | None
    missing: int
    failed: int

    @property
    def headline(self) -> Estimate:
        """The number that is fair: with misses as zero where there can be any."""
        return self.zero or self.mean


@dataclass(frozen=True)
class Summary:
    """What an evaluation comes to.

    Arguments:
        evaluation: Of what.
        configurations: In the order of the sweep.
        main: Label of the metric that cases are sorted by.
        cells: By key of the configuration and label of the metric.
        baseline: Key of the configuration that the others are compared with.
        comparisons: With the baseline, on the same jobs, by key and label.
        coverage: Pictures that every configuration has at least, and how many the protocol asks for; None without one.
    """

    evaluation: Evaluation
    configurations: tuple[Configuration, ...]
    main: str
    cells: Mapping[tuple[str, str], Cell]
    baseline: str
    comparisons: Mapping[tuple[str, str], Comparison]
    coverage: tuple[int, int] | None

    @property
    def metrics(self) -> Mapping[str, About]:
        """The metrics, those that judge before those that are free."""
        known = self.evaluation.metrics
        return {label: known[label] for label in sorted(known, key=lambda label: label in FREE)}

    def best(self, label: str) -> str | None:
        """Return the configuration with the best number of a metric, if there are several and one is best."""
        better = self.metrics[label].better
        found = {one.key: self.cells[one.key, label].headline.mean for one in self.configurations}
        found = {key: value for key, value in found.items() if isfinite(value)}
        if better == "neither" or len(set(found.values())) < 2:
            return None
        return (max if better == "higher" else min)(found, key=lambda key: found[key])

    def plain(self) -> dict[str, Any]:
        """Return all of it as plain values, for JSON."""
        return {
            "folder": str(self.evaluation.folder.path),
            "main": self.main,
            "baseline": self.baseline,
            "coverage": self.coverage,
            "warnings": list(self.evaluation.warnings),
            "metrics": {label: asdict(about) for label, about in self.metrics.items()},
            "configurations": [
                {
                    "config": one.key,
                    "title": one.title,
                    "options": dict(one.options),
                    "jobs": len(one.rows),
                    "metrics": {label: _plain(asdict(self.cells[one.key, label])) for label in self.metrics},
                    "compared": {
                        label: _plain(asdict(self.comparisons[one.key, label]))
                        for label in self.metrics
                        if (one.key, label) in self.comparisons
                    },
                }
                for one in self.configurations
            ],
        }


def summarise(evaluation: Evaluation, baseline: str | None = None) -> Summary:
    """Sum an evaluation up.

    Arguments:
        evaluation: What `evaluate` or `read_evaluation` returned.
        baseline: Title or key of the configuration that others are compared with; by default the first, at its end.

    Raises:
        InvalidArgument: If there is no such configuration.
    """
    found = configurations(evaluation.folder.rows)
    ends = (one for one in found if one.rows[0]["key"] == one.rows[0]["job"])
    first = next(ends) if baseline is None else _named(baseline, found)
    cells, comparisons = {}, {}
    for label, about in evaluation.metrics.items():
        looks = any(one.detected is not None for one in evaluation.values[label].values())
        base = _paired(evaluation, label, about, first, looks)
        for one in found:
            cells[one.key, label] = _cell(evaluation, label, about, one, looks)
            if one is first or about.better == "neither" or not about.paired:
                continue
            mine = _paired(evaluation, label, about, one, looks)
            if keys := [key for key in mine if key in base]:
                comparisons[one.key, label] = compare(
                    [mine[key] for key in keys],
                    [base[key] for key in keys],
                    [key[0] for key in keys],  # type: ignore[index]
                    better=about.better,
                )
    coverage = None
    if evaluation.protocol is not None and evaluation.protocol.size:
        done = min(sum(row["status"] == "done" for row in one.rows) for one in found)
        coverage = (done, evaluation.protocol.size)
    return Summary(evaluation, found, _main(evaluation), cells, first.key, comparisons, coverage)


def _named(name: str, found: tuple[Configuration, ...]) -> Configuration:
    for one in found:
        if name in (one.title, one.key):
            return one
    titles = [one.title for one in found]
    raise InvalidArgument(
        f"There is no configuration {name!r}.{did_you_mean(name, titles)} Known: {'; '.join(titles)}."
    )


def _main(evaluation: Evaluation) -> str:
    judged = [label for label, about in evaluation.metrics.items() if label not in FREE and about.better != "neither"]
    return (judged or list(evaluation.metrics))[0]


def _cell(evaluation: Evaluation, label: str, about: About, one: Configuration, looks: bool) -> Cell:
    values = evaluation.values[label]
    numbers, groups, there, zeros, everyone = [], [], [], [], []
    missing = failed = 0
    for row in one.rows:
        found, group = values.get(row["key"]), row.get("reference")
        if found is None:
            failed += row["status"] != "done"
            missing += row["status"] == "done"
            if row["status"] == "done":
                continue
        elif isfinite(found.value):
            numbers.append(found.value)
            groups.append(group)
        elif found.detected is not False:
            missing += 1
            continue
        seen = found is not None and found.detected is not False
        there.append(float(seen))
        zeros.append(found.value if found is not None and seen else 0.0)
        everyone.append(group)
    return Cell(
        estimate(numbers, groups),
        estimate(there, everyone) if looks else None,
        estimate(zeros, everyone) if looks and about.better == "higher" else None,
        missing,
        failed,
    )


def _paired(evaluation: Evaluation, label: str, about: About, one: Configuration, looks: bool) -> dict[Hashable, float]:
    """Return the number of each case, by reference, prompt and seed; misses are zero where that is no good number."""
    found: dict[Hashable, float] = {}
    for row in one.rows:
        measured = evaluation.values[label].get(row["key"])
        missed = row["status"] == "failed" or (measured is not None and measured.detected is False)
        key = (row.get("reference"), row.get("prompt"), row.get("seed"))
        if measured is not None and isfinite(measured.value):
            found[key] = measured.value
        elif missed and looks and about.better == "higher":
            found[key] = 0.0
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and isnan(value) else value
