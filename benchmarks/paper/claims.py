"""What the paper claims, asked of each family on the same pairs: the difference, its interval, and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from measured import Case, Line, Row, difference

Values = Mapping[Case, float]
Sides = tuple["Values | None", "Values | None"]


FEW = 8
"""Pairs below which an interval by bootstrap is too narrow to go by."""


class Claim(NamedTuple):
    """A claim: a key, its words, where it stands, the paper's numbers, and what is compared: first above second."""

    key: str
    words: str
    where: str
    paper: str
    sides: Callable[[Lines], Sides]


def at(look: int, last: int) -> int:
    """The look of a solve of `last` iterations that stands for one of a hundred's."""
    return max(1, round(look * last / 100))


class Lines:
    """The lines of a family, found by what they are."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines

    def find(self, solver: str, factor: float | None = 1.0, look: int = 100) -> Line | None:
        """Find a rule at so many times the paper's setting after 10, 20, 50 or 100 of the iterations."""
        of = [one for one in self.lines if one.sweep == "paper" and one.solver == solver and one.factor == factor]
        found = [one for one in of if one.iterations == (one.last if look == 100 else at(look, one.last))]
        return found[0] if found else None

    def of(self, sweep: str) -> Line | None:
        """Find the one line of a sweep."""
        return next((one for one in self.lines if one.sweep == sweep), None)

    def numbers(self, solver: str, factor: float = 1.0, look: int = 100, metric: str = "likeness") -> Values | None:
        """Return a metric of what `find` finds."""
        found = self.find(solver, factor, look)
        return found.values[metric] if found else None

    def spread(self, solver: str) -> Values | None:
        """Return, case by case, how far likeness differs between half, once and twice the paper's setting."""
        found = [self.numbers(solver, factor) for factor in (0.5, 1.0, 2.0)]
        if not all(found):
            return None
        cases = [case for case in found[0] or () if all(case in (one or ()) for one in found)]
        each = {case: [one[case] for one in found if one] for case in cases}
        return {case: max(values) - min(values) for case, values in each.items()}


def _rules(first: str, second: str, look: int = 100, metric: str = "likeness") -> Callable[[Lines], Sides]:
    return lambda lines: (lines.numbers(first, 1.0, look, metric), lines.numbers(second, 1.0, look, metric))


def _unguided_prompt(lines: Lines) -> Values | None:
    found = lines.of("unguided")
    return found.values["prompt"] if found else None


def _likeness(line: Line | None) -> Values | None:
    return line.values["likeness"] if line else None


CLAIMS = (
    Claim(
        "iterations",
        "100 iterations give more likeness than 20",
        "Table 1",
        "0.593, 0.486",
        lambda lines: (lines.numbers("anchored"), lines.numbers("anchored", look=20)),
    ),
    Claim(
        "iterations-prompt",
        "and keep less of the prompt",
        "Table 1",
        "0.293, 0.300",
        lambda lines: (lines.numbers("anchored", 1.0, 20, "prompt"), lines.numbers("anchored", metric="prompt")),
    ),
    Claim(
        "anchor",
        "The anchor gives likeness",
        "Table 2",
        "0.593, 0.116",
        _rules("anchored", "unanchored"),
    ),
    Claim(
        "anchor-prompt",
        "and keeps more of the prompt",
        "Table 2",
        "0.293, 0.292",
        _rules("anchored", "unanchored", metric="prompt"),
    ),
    Claim(
        "descent",
        "Anchored guidance gives more likeness than descent on the noise",
        "Table 2",
        "0.593, 0.525",
        _rules("anchored", "noise-descent"),
    ),
    Claim(
        "descent-prompt",
        "and keeps more of the prompt",
        "Table 2",
        "0.293, 0.284",
        _rules("anchored", "noise-descent", metric="prompt"),
    ),
    Claim(
        "faster",
        "It is ahead of it after 20 iterations",
        "Fig. 6, right",
        "",
        _rules("anchored", "noise-descent", look=20),
    ),
    Claim(
        "steadier",
        "Halved or doubled, the learning rate matters more than the guidance scale",
        "Fig. 6, left",
        "",
        lambda lines: (lines.spread("noise-descent"), lines.spread("anchored")),
    ),
    Claim(
        "scale",
        "A larger scale gives more likeness after 20 iterations",
        "Fig. 15, left",
        "",
        lambda lines: (lines.numbers("anchored", 2.0, 20), lines.numbers("anchored", 0.5, 20)),
    ),
    Claim(
        "small-scale",
        "A small scale helps the prompt",
        "Fig. 15, left",
        "",
        lambda lines: (lines.numbers("anchored", 0.5, 20, "prompt"), _unguided_prompt(lines)),
    ),
    Claim(
        "auto",
        "`auto` with its preset gives more likeness than anchored guidance in 20 iterations",
        "not in it",
        "",
        lambda lines: (_likeness(lines.of("auto")), lines.numbers("anchored", look=20)),
    ),
)


def judge(family: str, lines: Sequence[Line]) -> list[Row]:
    """Ask every claim of a family; those that cannot be asked yet are left out."""
    rows = []
    for claim in CLAIMS:
        first, second = claim.sides(Lines(lines))
        found = difference(first, second) if first and second else None
        if found is None:
            continue
        rows.append(
            {
                "family": family,
                "claim": claim.key,
                "difference": f"{found.difference.mean:.4f}",
                "low": f"{found.difference.low:.4f}",
                "high": f"{found.difference.high:.4f}",
                "wins": str(found.wins),
                "losses": str(found.losses),
                "sign test": f"{found.p:.2g}",
                "pairs": str(found.difference.count),
            }
        )
    return rows


def verdict(row: Row) -> str:
    """Whether the claim holds: its interval lies above zero, below, around it, or is nothing; or pairs are few."""
    if int(row["pairs"]) < FEW:
        return "few pairs"
    low, high = float(row["low"]), float(row["high"])
    return "yes" if low > 0 else "no" if high < 0 else "level" if low == high == 0 else "open"
