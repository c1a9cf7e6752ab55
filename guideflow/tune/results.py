"""What a search comes to: points, the front of those that none is better than in both, and the one that is chosen."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from guideflow._files import remove_left, write_whole
from guideflow._require import require

TABLE: Final = "trials.csv"
PLOT: Final = "front.png"
_NAMED: Final = 6
"""Points of a front that are numbered in the plot, at most."""


@dataclass(frozen=True)
class Judge:
    """An objective.

    Arguments:
        label: What it is called: the metric, with the options it was given.
        better: "higher" or "lower".
        unguided: What the unguided pictures have.
    """

    label: str
    better: str
    unguided: float

    def improves(self, value: float, other: float) -> bool:
        """Tell whether a value is better than another."""
        return value > other if self.better == "higher" else value < other


@dataclass(frozen=True)
class Point:
    """What a solver with some options came to on the jobs.

    Arguments:
        number: Of the trial; 0 is the solver by default.
        options: Those that were searched; none of the default.
        metric: Mean of the first objective, None if the trial failed.
        cost: Mean of the second.
        note: Why it failed.
        front: Whether no other point is better in both.
    """

    number: int
    options: Mapping[str, Any]
    metric: float | None
    cost: float | None
    note: str = ""
    front: bool = False


@dataclass(frozen=True)
class Points:
    """What solvers came to on some jobs; the first is the solver by default.

    Arguments:
        points: The solver by default, and others.
        judges: The two objectives.
        at_most: How much of the second one the chosen point may have, of the unguided pictures'.
    """

    points: tuple[Point, ...]
    judges: tuple[Judge, Judge]
    at_most: float

    @property
    def rule(self) -> str:
        """How a point is chosen."""
        metric, cost = (judge.label for judge in self.judges)
        return f"the best {metric} of those whose {cost} is at most {self.at_most:g} times the unguided pictures'"

    @property
    def default(self) -> Point:
        """The solver by default."""
        return self.points[0]

    @property
    def chosen(self) -> Point | None:
        """The point that the rule chooses, of equals the one of lower cost; None if none is within the bound."""
        sign = -1 if self.judges[0].better == "higher" else 1
        within = [point for point in self.points if self.times(point) <= self.at_most]
        return min(within, key=lambda point: (sign * (point.metric or 0.0), point.cost), default=None)

    def times(self, point: Point) -> float:
        """Return how much of the second objective a point has, of the unguided pictures'; inf of one that failed."""
        unguided = self.judges[1].unguided
        return float("inf") if point.cost is None or unguided <= 0 else point.cost / unguided

    def beats_default(self, point: Point) -> bool:
        """Tell whether a point has the better metric than the default, and is within the bound or costs no more."""
        default = self.default
        if point.metric is None or (
            default.metric is not None and not self.judges[0].improves(point.metric, default.metric)
        ):
            return False
        return self.times(point) <= max(self.at_most, self.times(default) if default.cost is not None else 0.0)


@dataclass(frozen=True)
class Outcome:
    """What a search came to.

    Arguments:
        found: The solver by default, and the trials.
        check: The solver by default and the chosen one on other people; None without a check.
        preset: Where the preset was written, None if there is none.
        note: Why there is no preset.
    """

    found: Points
    check: Points | None = None
    preset: Path | None = None
    note: str = ""


def write_table(folder: Path, found: Points) -> None:
    """Write every point as a line of `trials.csv`."""
    options = list(dict.fromkeys(name for point in found.points for name in point.options))
    labels = [judge.label for judge in found.judges]
    writer = csv.writer(text := io.StringIO(), lineterminator="\n")
    writer.writerow(["trial", *options, *labels, "times unguided", "front", "chosen", "note"])
    for point in found.points:
        given = [_cell(point.options[name]) if name in point.options else "" for name in options]
        numbers = ["" if value is None else f"{value:.6g}" for value in (point.metric, point.cost)]
        times = "" if point.cost is None else f"{found.times(point):.3f}"
        marks = ["yes" if mark else "" for mark in (point.front, point == found.chosen)]
        writer.writerow([point.number, *given, *numbers, times, *marks, point.note])
    write_whole(folder / TABLE, text.getvalue().encode())


def draw(folder: Path, found: Points) -> None:
    """Draw the points, the front, the bound and the chosen one as `front.png`."""
    figures = require("matplotlib.figure", extra="tune")
    metric, cost = found.judges
    figure = figures.Figure(figsize=(6.2, 4.0), layout="constrained", facecolor="white")
    axes = figure.subplots()
    done = [point for point in found.points if point.cost is not None]
    front = sorted((point for point in done if point.front), key=found.times)
    axes.axvspan(0, found.at_most, color="#3c9a5f", alpha=0.1, lw=0, label=f"within {found.at_most:g} times")
    axes.plot(*_places(found, front), color="#2f6db5", lw=1, zorder=1)
    for points, style in (
        ([point for point in done if point.number and not point.front], {"color": "#9aa3ad", "label": "trial"}),
        ([point for point in front if point.number], {"color": "#2f6db5", "label": "trial on the front"}),
        ([point for point in done if not point.number], {"color": "#d9822b", "marker": "s", "label": "by default"}),
    ):
        if points:
            axes.scatter(*_places(found, points), s=32, zorder=2, **style)
    axes.scatter([1.0], [metric.unguided], color="#30343b", marker="x", s=36, label="unguided")
    if (chosen := found.chosen) is not None:
        axes.scatter(
            *_places(found, [chosen]), s=130, facecolors="none", edgecolors="#b5485d", lw=1.6, zorder=3, label="chosen"
        )
    for point in done:
        if point == found.chosen or (point.front and len(front) <= _NAMED):
            place = [values[0] for values in _places(found, [point])]
            axes.annotate(str(point.number), place, (5, 5), textcoords="offset points", fontsize=8)
    axes.set_xlim(*_span([1.0, *_places(found, done)[0]], found.at_most))
    axes.set_xlabel(f"{cost.label}, times that of unguided pictures (lower is better)", fontsize=9)
    axes.set_ylabel(f"{metric.label} ({metric.better} is better)", fontsize=9)
    axes.margins(y=0.1)
    axes.grid(alpha=0.25, lw=0.5)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(content := io.BytesIO(), format="png", dpi=110)
    write_whole(folder / PLOT, content.getvalue())
    remove_left(folder, [TABLE, PLOT])


def _span(values: Sequence[float], bound: float) -> tuple[float, float]:
    """Return the ends of an axis that shows the values, and the bound where it is not far off."""
    low, high = min(values), max(values)
    shown = bound if bound < high + (high - low) else high
    margin = 0.06 * (max(high, shown) - low) or 0.05
    return low - margin, max(high, shown) + margin


def _places(found: Points, points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [found.times(point) for point in points], [point.metric or 0.0 for point in points]


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
