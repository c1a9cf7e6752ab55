"""Figures 6 and 15 of the paper in our words, from the rows of the CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from claims import Lines, at
from measured import Line, Row
from tables import chosen, families, of_sweep

LOOKS = (10, 20, 50, 100)
RULES = {"anchored": "tab:blue", "unanchored": "tab:red", "noise-descent": "tab:green"}
FACTORS = {"0.5": "half the setting", "1": "the paper's setting", "2": "twice the setting"}


def fig6(rows: Sequence[Row], path: Path) -> None:
    """Likeness over the iterations at half, once and twice the setting, a row of panels for each family."""
    there = families(rows)
    figure, axes = _panels(len(there), len(FACTORS), (2.3, 1.5))
    for line, family in zip(axes, there, strict=True):
        for axis, (factor, called) in zip(line, FACTORS.items(), strict=True):
            for solver, colour in RULES.items():
                start = of_sweep(rows, family, "unguided")
                found = [chosen(rows, family, solver, factor, look) for look in LOOKS]
                _curve(axis, [start, *found], solver, colour)
            axis.set_ylim(-0.3, 1)
            if family == there[0]:
                axis.set_title(called, fontsize=8)
            if family == there[-1]:
                axis.set_xlabel("iteration", fontsize=7)
        line[0].set_ylabel(f"{family}\nlikeness", fontsize=7)
    axes[0][-1].legend(frameon=False, fontsize=6)
    _save(figure, path)


def fig15(rows: Sequence[Row], path: Path) -> None:
    """Likeness and prompt of anchored guidance over its scale, and over its iterations."""
    figure, axes = _panels(2, 2, (3.4, 1.7))
    for family in families(rows):
        start = of_sweep(rows, family, "unguided")
        scales = [start, *_scales(rows, family)]
        looks = [start, *(chosen(rows, family, "anchored", look=look) for look in LOOKS)]
        for line, metric in zip(axes, ("likeness", "prompt"), strict=True):
            _curve(line[0], scales, family, None, metric, [0.0, *(_scale(row) for row in scales[1:])])
            _curve(line[1], looks, family, None, metric)
    axes[0][0].set_title(f"N = {at(20, _last(rows))}", fontsize=8)
    axes[0][1].set_title("s = 1", fontsize=8)
    for axis, name in zip(axes[1], ("guidance scale s", "iterations N"), strict=True):
        axis.set_xlabel(name, fontsize=7)
    for line, (metric, low) in zip(axes, (("likeness", -0.1), ("prompt", 0.0)), strict=True):
        line[0].set_ylabel(metric, fontsize=7)
        for axis in line:
            axis.set_ylim(low, 1.05)
    axes[1][0].legend(frameon=False, fontsize=6, loc="lower left")
    _save(figure, path)


def pictures(lines: Sequence[Line], path: Path) -> None:
    """The first pair as Fig. 6 shows it: each rule at three settings after 20 iterations, and at one after more."""
    from avatars import draw_labelled

    from guideflow.images import read_image

    found, plain = Lines(lines), Lines(lines).of("unguided")
    shown = [("half", 0.5, 20), ("once", 1.0, 20), ("twice", 2.0, 20), ("once", 1.0, 50), ("once", 1.0, 100)]
    anchored = found.find("anchored")
    if plain is None or not plain.pictures or anchored is None:
        return
    case = next(iter(plain.pictures))
    rows = []
    for solver in RULES:
        each = [found.find(solver, factor, look) for _, factor, look in shown]
        files = [case[0], plain.pictures[case], *(one.pictures.get(case) if one else None for one in each)]
        rows.append([None if file is None else read_image(file)[0] for file in files])
    names = [f"{name},\nN = {at(look, anchored.last)}" for name, _, look in shown]
    draw_labelled(path, rows, ["reference", "unguided", *names], [*RULES], side=0.7)


def _scales(rows: Sequence[Row], family: str) -> list[Row]:
    """List anchored guidance after 20 iterations, by its scale."""
    found = [chosen(rows, family, "anchored", factor, 20) for factor in FACTORS]
    ends = [row for row in rows if (row["family"], row["sweep"]) == (family, "sensitivity")]
    return sorted([row for row in (*found, *ends) if row is not None], key=_scale)


def _scale(row: Row | None) -> float:
    return float(row["factor"]) if row else 0.0


def _last(rows: Sequence[Row]) -> int:
    return max((int(row["of"]) for row in rows if row["sweep"] == "paper"), default=100)


def _curve(
    axis: Any, rows: Sequence[Row | None], name: str, colour: str | None, metric: str = "likeness", at: Any = None
) -> None:
    places = at or [0 if row is None else int(row["iterations"]) for row in rows]
    kept = [(x, row) for x, row in zip(places, rows, strict=True) if row is not None and row[metric]]
    if not kept:
        return
    xs, means = [x for x, _ in kept], [float(row[metric]) for _, row in kept]
    (drawn,) = axis.plot(xs, means, marker="o", ms=2, lw=1, color=colour, label=name)
    low, high = ([float(row[f"{metric} {end}"] or row[metric]) for _, row in kept] for end in ("low", "high"))
    axis.fill_between(xs, low, high, color=drawn.get_color(), alpha=0.15, lw=0)


def _panels(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    wide, high = size[0] * columns + 0.3, size[1] * rows + 0.4
    figure, axes = plt.subplots(
        rows, columns, figsize=(wide, high), layout="constrained", squeeze=False, sharex="col", sharey="row"
    )
    for axis in axes.flat:
        axis.tick_params(labelsize=6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt
    from PIL import Image

    figure.savefig(path, dpi=110)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
