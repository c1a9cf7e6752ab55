"""The curves of a report, each a small SVG of its own so that they fit a phone as well as a desk."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from guideflow._require import require
from guideflow.evaluation.configurations import Configuration, title_of
from guideflow.evaluation.folder import EXTRA
from guideflow.evaluation.run import FREE
from guideflow.evaluation.statistics import Estimate
from guideflow.evaluation.summary import Summary
from guideflow.evaluation.tables import name

PALETTE: Final = ("#2f6db5", "#d9822b", "#3c9a5f", "#b5485d", "#7a5fb0", "#8a6d3b", "#c668a8", "#5f6b7a")
_INK, _GRID = "#7b828b", "#7b828b33"  # seen on white as on black
_SIZE = (3.5, 2.6)
_MOST = 6
"""Panels of a kind."""


@dataclass(frozen=True)
class Panel:
    """One drawing.

    Arguments:
        title: What is shown.
        svg: The drawing.
        legend: Colour and text of each line; empty where the colours are those of the configurations.
    """

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...] = ()


def colours(summary: Summary) -> dict[str, str]:
    """Return the colour of each configuration: that of its end at every look."""
    ends = list(dict.fromkeys(map(_end, summary.configurations)))
    return {one.key: PALETTE[ends.index(_end(one)) % len(PALETTE)] for one in summary.configurations}


def _end(one: Configuration) -> str:
    return str(one.rows[0]["config"])


def panels(summary: Summary) -> list[Panel]:
    """Draw what can be drawn: cases in order, quality against time, and metrics over every option that is a number."""
    labels = [label for label, about in summary.metrics.items() if label not in FREE and about.better != "neither"]
    labels = labels or [summary.main]
    found = [_ordered(summary, summary.main)]
    if "seconds" in summary.metrics and len(summary.configurations) > 1:
        found += [_against_time(summary, label) for label in labels[:_MOST]]
    for axis in _axes(summary.configurations):
        found += [_over(summary, axis, label) for label in labels[:_MOST]]
    return found


def _ordered(summary: Summary, label: str) -> Panel:
    """Show all cases of each configuration, from the lowest to the highest number."""
    with _Drawing(summary, label) as drawing:
        values, shades = summary.evaluation.values[label], colours(summary)
        for i, one in enumerate(summary.configurations):
            found = (values.get(row["key"]) for row in one.rows)
            numbers = sorted(each.value for each in found if each is not None and isfinite(each.value))
            share = [(i + 0.5) / len(numbers) for i in range(len(numbers))]
            looks = [other for other in summary.configurations if _end(other) == _end(one)]
            alpha = (1 + looks.index(one)) / len(looks)  # an early look is pale
            drawing.axis.plot(share, numbers, color=shades[one.key], alpha=alpha, linewidth=1.6, gid=f"config-{i}")
        drawing.axis.set_xlim(0, 1)
        drawing.axis.set_xlabel("share of pictures")
    return Panel(f"All pictures by {name(label, [*summary.metrics])}", drawing.svg)


def _against_time(summary: Summary, label: str) -> Panel:
    ways: dict[str, list[tuple[float, float, str]]] = {}
    with _Drawing(summary, label) as drawing:
        for i, one in enumerate(summary.configurations):
            time, value = (summary.cells[one.key, which].headline for which in ("seconds", label))
            if isfinite(time.mean) and isfinite(value.mean):
                drawing.point(time.mean, value, colours(summary)[one.key], f"config-{i}")
                ways.setdefault(_end(one), []).append((time.mean, value.mean, colours(summary)[one.key]))
        for points in ways.values():  # from look to look
            x, y, shades = zip(*sorted(points), strict=True)
            drawing.axis.plot(x, y, color=shades[0], linewidth=1.2, alpha=0.5, zorder=1)
        drawing.axis.set_xlabel("seconds a picture")
        drawing.axis.set_xlim(0, 1.1 * drawing.axis.get_xlim()[1])
    return Panel(f"{name(label, [*summary.metrics])} against time", drawing.svg)


def _over(summary: Summary, axis: str, label: str) -> Panel:
    """Show a metric over an option, with a line for each combination of the others."""
    groups: dict[str, list[tuple[float, Estimate]]] = {}
    for one in summary.configurations:
        value, rest = one.options[axis], {key: other for key, other in one.options.items() if key != axis}
        if _is_number(value):
            groups.setdefault(title_of(rest), []).append((float(value), summary.cells[one.key, label].headline))
    with _Drawing(summary, label) as drawing:
        for shade, points in zip(PALETTE * (1 + len(groups) // len(PALETTE)), groups.values(), strict=False):
            known = sorted((x, found) for x, found in points if isfinite(found.mean))
            x = [one for one, _ in known]
            drawing.axis.plot(
                x, [found.mean for _, found in known], color=shade, linewidth=1.6, marker="o", markersize=3.5
            )
            if all(isfinite(found.low) for _, found in known):
                low, high = [found.low for _, found in known], [found.high for _, found in known]
                drawing.axis.fill_between(x, low, high, color=shade, alpha=0.15, linewidth=0)
        drawing.axis.set_xlabel(axis)
        spread = sorted({x for points in groups.values() for x, _ in points})
        if spread[0] > 0 and spread[-1] / spread[0] >= 8:
            drawing.axis.set_xscale("log")
        if len(spread) <= 6:
            drawing.axis.set_xticks(spread, [f"{x:g}" for x in spread])
            drawing.axis.minorticks_off()
    legend = tuple(zip(PALETTE * (1 + len(groups) // len(PALETTE)), groups, strict=False)) if len(groups) > 1 else ()
    return Panel(f"{name(label, [*summary.metrics])} over {axis}", drawing.svg, legend)


def _axes(found: Sequence[Configuration]) -> list[str]:
    """List the options that are numbers in several configurations."""
    options: Mapping[str, Any] = found[0].options if found else {}
    return [axis for axis in options if len({one.options[axis] for one in found if _is_number(one.options[axis])}) > 1]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Drawing:
    """A small figure in the style of all, written as SVG when it is left."""

    def __init__(self, summary: Summary, label: str) -> None:
        figures = require("matplotlib.figure", extra=EXTRA)
        self.figure = figures.Figure(figsize=_SIZE, layout="constrained")
        self.axis: Any = self.figure.subplots()
        unit = summary.metrics[label].unit
        self.axis.set_ylabel(name(label, [*summary.metrics]) + (f" ({unit})" if unit else ""))
        self.svg = ""

    def point(self, x: float, y: Estimate, colour: str, gid: str) -> None:
        """Draw a point with its interval, by an id that the page hides it by."""
        if isfinite(y.low):
            self.axis.plot([x, x], [y.low, y.high], color=colour, linewidth=1.4, alpha=0.6, gid=gid)
        self.axis.plot([x], [y.mean], "o", color=colour, markersize=6, gid=gid)

    def __enter__(self) -> _Drawing:
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is not None:
            return
        self.axis.grid(color=_GRID, linewidth=0.8)
        self.axis.set_axisbelow(True)
        self.axis.tick_params(labelsize=8, colors=_INK, length=0)
        for label in (self.axis.xaxis.label, self.axis.yaxis.label):
            label.set(fontsize=8.5, color=_INK)
        for side, spine in self.axis.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(_INK)
        style = {"svg.fonttype": "none", "svg.hashsalt": "guideflow", "font.family": "sans-serif"}
        content = io.StringIO()
        with require("matplotlib", extra=EXTRA).rc_context(style):
            self.figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
        self.svg = "<svg" + content.getvalue().partition("<svg")[2]
