"""The tables of the paper in our words, as Markdown, from the rows of the CSV files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from claims import CLAIMS, at, verdict
from measured import Row

FAMILIES = ("perflow", "rectified-flow", "instaflow", "turbo", "pcm")
HEADS = {
    "likeness": "likeness, held-out judge",
    "guidance": "likeness, guidance network",
    "prompt": "prompt",
    "denoise": "denoise error",
    "distance": "distance",
    "seconds": "seconds",
}
EXPLAINED = (
    "*Likeness* is the cosine to the reference, by a recogniser that no loss uses, where a picture without a face "
    "counts as 0, with its 95 % bootstrap interval over people; and by the network that guides. *Prompt* is the share "
    "of background, clothes and colour that is as asked, *denoise error* the generator's own opinion of how natural "
    "the picture is, relative to unguided ones."
)
SECONDS = "*Seconds* are those of the clock, a picture's share of its batch."
DISTANCE = "*Distance* is the root mean square change of the picture."


def families(rows: Sequence[Row]) -> list[str]:
    """List the families that have rows, in the order of the docs."""
    there = {row["family"] for row in rows}
    return [*(name for name in FAMILIES if name in there), *sorted(there - {*FAMILIES})]


def chosen(rows: Sequence[Row], family: str, solver: str, factor: str = "1", look: int = 100) -> Row | None:
    """Find the row of a rule at so many times the paper's setting after 10, 20, 50 or 100 of the iterations."""
    for row in rows:
        last = int(row["of"])
        wanted = last if look == 100 else at(look, last)
        if (row["family"], row["sweep"], row["solver"], row["factor"]) == (family, "paper", solver, factor):
            if int(row["iterations"]) == wanted:
                return row
    return None


def of_sweep(rows: Sequence[Row], family: str, sweep: str) -> Row | None:
    """Find the one row of a sweep."""
    return next((row for row in rows if (row["family"], row["sweep"]) == (family, sweep)), None)


def setting(row: Row) -> str:
    """Write the options of a row."""
    found = json.loads(row["options"])
    return ", ".join(f"{name}={value}" for name, value in found.items())


def table1(rows: Sequence[Row]) -> str:
    """Likeness, prompt and time, for each family."""

    def lines(family: str) -> list[tuple[str, Row | None]]:
        auto, unguided = of_sweep(rows, family, "auto"), of_sweep(rows, family, "unguided")
        anchored = [chosen(rows, family, "anchored", look=look) for look in (20, 100)]
        found = [("anchored", one) for one in anchored] + [("auto with its preset", auto)]
        return [("unguided", unguided), *((f"{name}, N = {one['iterations']}", one) for name, one in found if one)]

    return _table(rows, lines, ("likeness", "guidance", "prompt", "denoise", "seconds"))


def table2(rows: Sequence[Row], best: Sequence[Row]) -> str:
    """The rules at the paper's setting and at the best of the search, for each family."""

    def lines(family: str) -> list[tuple[str, Row | None]]:
        found: list[tuple[str, Row | None]] = [("unguided", of_sweep(rows, family, "unguided"))]
        for solver in ("noise-descent", "unanchored", "anchored", "flowgrad"):
            usual = chosen(rows, family, solver)
            found.append((solver, usual))
            for one in best:
                tuned = _best(rows, family, one) if one["solver"] == solver else None
                if tuned is not None and tuned is not usual:
                    found.append((f"{solver}, {setting(tuned)}", tuned))
        return found

    return _table(rows, lines, ("likeness", "guidance", "prompt", "denoise", "distance"))


def _best(rows: Sequence[Row], family: str, best: Row) -> Row | None:
    same = [row for row in rows if row["family"] == family and row["sweep"] == "paper"]
    same = [row for row in same if row["solver"] == best["solver"] and row["options"] == best["options"]]
    return next((row for row in same if row["iterations"] == row["of"]), None)


def _table(rows: Sequence[Row], lines: Callable[[str], list[tuple[str, Row | None]]], metrics: Sequence[str]) -> str:
    head = ["family", "", *(HEADS[name] for name in metrics)]
    found = [_cells(head), _cells(["---"] * len(head))]
    for family in families(rows):
        called = f"`avatars-{family}`"
        plain = of_sweep(rows, family, "unguided")
        for name, row in lines(family):
            if row is not None:
                found.append(_cells([called, name, *(_number(row, metric, plain) for metric in metrics)]))
                called = ""
    return "\n".join(found)


def _number(row: Row, metric: str, plain: Row | None) -> str:
    text = row[metric]
    if not text:
        return ""
    if metric == "denoise":
        return f"{float(text) / float(plain[metric]):.2f}x" if plain and plain[metric] else text
    if metric == "seconds":
        return f"{float(text):.2f}"
    interval = f" ({float(row['likeness low']):.2f} to {float(row['likeness high']):.2f})"
    return f"{float(text):.3f}" + (interval if metric == "likeness" and row["likeness low"] else "")


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def claims(rows: Sequence[Row], of: Sequence[Row]) -> str:
    """What the paper claims, and what each family says to it; `of` are the rows of the tables."""
    there = families(rows)
    most = {name: max(int(row["pairs"]) for row in rows if row["family"] == name) for name in there}
    pairs = ", ".join(f"{count} of `avatars-{name}`" for name, count in most.items())
    found = [
        " ".join([f"Pairs: {pairs}.", *quick(of)]),
        "",
        _cells(["claim", "paper", *there]),
        _cells(["---"] * (2 + len(there))),
    ]
    for claim in CLAIMS:
        mine = {row["family"]: row for row in rows if row["claim"] == claim.key}
        if mine:
            cells = [_verdict(mine[name]) if name in mine else "" for name in there]
            found.append(_cells([claim.words, f"{claim.where}: {claim.paper}" if claim.paper else claim.where, *cells]))
    return "\n".join(found)


def _verdict(row: Row) -> str:
    return f"{verdict(row)}, {float(row['difference']):+.3f} ({float(row['low']):+.2f} to {float(row['high']):+.2f})"


def search(rows: Sequence[Row]) -> str:
    """Every setting that was tried."""
    head = ["solver", "setting", "likeness", "prompt", "denoise error", "value", "chosen"]
    found = [_cells(head), _cells(["---"] * len(head))]
    for row in rows:
        numbers = [f"{float(row[name]):.3f}" for name in ("likeness", "prompt")]
        numbers += [f"{float(row['denoise']):.4f}", f"{float(row['value']):.3f}"]
        found.append(_cells([row["solver"], setting(row), *numbers, "yes" if row["best"] == "yes" else ""]))
    return "\n".join(found)


def caption(rows: Sequence[Row]) -> str:
    """Say of how many pairs, on what and by which commands the rows are."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for family in families(rows):
        mine = [row for row in rows if row["family"] == family]
        counts = sorted({int(row["pairs"]) for row in mine})
        pairs = f"{counts[0]} pairs" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} pairs"
        newest = max(mine, key=lambda row: row["date"])
        kinds.setdefault((pairs, *(newest[name] for name in ("machine", "date", "commit", "command"))), []).append(
            family
        )
    texts = []
    for (pairs, machine, date, commit, command), names in kinds.items():
        texts.append(
            f"{', '.join(f'`avatars-{name}`' for name in names)}: {pairs} of a held-out person and a held-out prompt, "
            f"on {machine}, {date}, by `{command}` at {commit}."
        )
    return " ".join([*texts, *quick(rows)])


def quick(rows: Sequence[Row]) -> list[str]:
    """Say so if iterations are fewer than the specs have."""
    asked = {"paper": 100, "search": 50}
    cut = [row for row in rows if row["sweep"] in asked and int(row["of"]) != asked[row["sweep"]]]
    if not cut:
        return []
    return [f"**A quick look with {cut[0]['of']} iterations for {asked[cut[0]['sweep']]}: nothing follows from it.**"]
