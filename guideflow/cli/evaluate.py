"""The bodies of `guideflow evaluate` and `guideflow report`."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from guideflow.cli import reading
from guideflow.cli.console import console, print_json, visible
from guideflow.errors import InvalidArgument
from guideflow.evaluation import Summary, evaluate, read_evaluation, report, summarise
from guideflow.evaluation.run import FREE
from guideflow.evaluation.tables import interval, name, number


def evaluate_folder(
    folder: Path, metrics: list[str] | None, protocol: str | None, baseline: str | None, again: bool, json: bool
) -> None:
    """Measure a folder, and print what it comes to."""
    if metrics and protocol:
        raise InvalidArgument("Got --metric and --protocol. Expected one of them: a protocol names its metrics.")
    with warnings.catch_warnings(record=True) as told, _progress() as progress:
        warnings.simplefilter("always")
        chosen = [reading.load("metric", text) for text in metrics] if metrics else None
        found = evaluate(folder, chosen, protocol=protocol, again=again, progress=progress)
    for line in dict.fromkeys(str(one.message) for one in told if one.category.__module__.startswith("guideflow")):
        print(f"guideflow: {visible(' '.join(line.split()))}", file=sys.stderr)
    summary = summarise(found, baseline)
    if json:
        print_json(summary.plain())
        return
    show(summary)
    console().print(f"\nPictures, curves and the worst cases: guideflow report {folder}", soft_wrap=True)


def report_folder(folder: Path, baseline: str | None, cases: int, out: Path | None) -> None:
    """Write the report of a folder, and say where it is."""
    for path in report(summarise(read_evaluation(folder), baseline), out, cases=cases):
        console().print(str(path), soft_wrap=True)


def show(summary: Summary) -> None:
    """Print a table for each kind of metric: the configurations below each other, best numbers in bold."""
    screen = console()
    jobs = summary.evaluation.folder.ends
    failed = sum(row["status"] != "done" for row in jobs)
    screen.print(f"{len(jobs)} jobs in {len(summary.configurations)} configurations, {failed} failed", soft_wrap=True)
    if summary.coverage:
        screen.print(f"{summary.coverage[0]} of the {summary.coverage[1]} pictures of the protocol", soft_wrap=True)
    labels = [*summary.metrics]
    for some in ([label for label in labels if label not in FREE], [label for label in labels if label in FREE]):
        for part in _split(summary, some, screen.width) if some else ():
            screen.print()
            screen.print(_table(summary, part))
    screen.print()
    screen.print("Means with 95 % bootstrap intervals. What looks for something counts what is not found as 0.")


def _split(summary: Summary, labels: list[str], width: int) -> list[list[str]]:
    """Share the metrics out over tables that are no wider than the screen, so that no word is cut."""
    titles = max((len(one.title) for one in summary.configurations), default=0)
    room = width - 2 - max(len("configuration"), min(titles, width // 2))
    parts, used = list[list[str]]([[]]), 0
    for label in labels:
        texts = [_head(summary, label), *(_cell(summary, one.key, label).plain for one in summary.configurations)]
        needed = 2 + max(len(line) for text in texts for line in text.split("\n"))
        if parts[-1] and used + needed > room:
            parts, used = [*parts, []], 0
        parts[-1].append(label)
        used += needed
    return parts


def _head(summary: Summary, label: str) -> str:
    about = summary.metrics[label]
    arrow, unit = {"higher": " ↑", "lower": " ↓"}.get(about.better, ""), f" ({about.unit})" if about.unit else ""
    return visible(f"{name(label, [*summary.metrics])}{arrow}{unit}").replace("-", "-\n")


def _cell(summary: Summary, key: Any, label: str) -> Text:
    cell, about = summary.cells[key, label], summary.metrics[label]
    parts: list[Any] = [(number(cell.headline.mean, about), "bold green" if summary.best(label) == key else "")]
    if known := interval(cell.headline, about):
        parts.append((f"\n{known}", "dim"))
    if cell.rate is not None:
        parts.append((f"\nfound {cell.rate.mean:.0%}", "dim"))
    return Text.assemble(*parts)


def _table(summary: Summary, labels: list[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("configuration", overflow="fold")
    for label in labels:
        table.add_column(_head(summary, label), justify="right", overflow="fold")
    for one in summary.configurations:
        table.add_row(visible(one.title), *(_cell(summary, one.key, label) for label in labels))
    return table


@contextmanager
def _progress() -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    screen = console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def tell(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bar.add_task(visible(label), total=total)
            bar.update(tasks[label], completed=done)

        yield tell
