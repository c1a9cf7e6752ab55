"""How numbers are written in tables."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from guideflow.evaluation.results import About
from guideflow.evaluation.statistics import Estimate

NONE = "\N{EN DASH}"


def number(value: float, about: About) -> str:
    """Write a number with the digits of its metric."""
    return f"{value:,.{about.digits}f}" if isfinite(value) else NONE


def interval(found: Estimate, about: About) -> str:
    """Write an interval, nothing where it cannot be told or is a point."""
    if not isfinite(found.low) or found.low == found.high:
        return ""
    return f"{number(found.low, about)} to {number(found.high, about)}"


def signed(value: float, about: About) -> str:
    """Write a difference with its sign."""
    return f"{value:+,.{about.digits}f}" if isfinite(value) else NONE


def probability(p: float) -> str:
    """Write a p-value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def name(label: str, labels: Sequence[str]) -> str:
    """Call a metric by its name alone where that tells it apart."""
    plain = label.partition(":")[0]
    return plain if sum(one.partition(":")[0] == plain for one in labels) == 1 else label
