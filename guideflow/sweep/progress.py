"""How far a sweep is: a bar on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType
from typing import Any, Final

from guideflow._require import require
from guideflow.sweep.running import Counts
from guideflow.sweep.worker import Finished

_EVERY: Final = 30.0
_WINDOW: Final = 64


class Progress:
    """Shows jobs done and failed, their rate and the time left.

    Arguments:
        console: of rich; a new one on standard error if None.
    """

    def __init__(self, console: Any = None) -> None:
        self.console = console or require("rich.console", extra="sweep").Console(stderr=True, markup=False)
        self.counts: Counts | None = None
        self._bar: Any = None
        self._task: Any = None
        self._began = self._told = 0.0

    def __call__(self, counts: Counts, finished: Finished | None) -> None:
        """Show the counts."""
        now = time.monotonic()
        if self.counts is None:
            self._begin(counts, now)
        self.counts = counts
        first = next((row["error"] for row in finished.rows if row["status"] == "failed"), None) if finished else None
        line = self.line(now)
        if self._bar is not None:
            self._bar.update(self._task, completed=counts.finished, about=line)
            if first:
                self._bar.console.print(f"failed: {first}", style="red", markup=False, highlight=False)
        elif finished is not None and (now - self._told >= _EVERY or counts.finished == counts.total):
            self._told = now
            print(f"{counts.finished} of {counts.total} jobs, {line}", file=self.console.file, flush=True)

    def line(self, now: float) -> str:
        """Write rate, failures and the time left."""
        counts = self.counts
        assert counts is not None
        made = counts.finished - counts.before
        rate = made / (now - self._began) if made and now > self._began else 0.0
        parts = [f"{counts.failed} failed"] if counts.failed else []
        if rate:
            parts.append(f"{rate:.1f} jobs/s" if rate >= 1 else f"{1 / rate:.1f} s a job")
            if counts.finished < counts.total:
                parts.append(f"{span((counts.total - counts.finished) / rate)} left")
        return ", ".join(parts) or "starting"

    def _begin(self, counts: Counts, now: float) -> None:
        self._began = self._told = now
        if not self.console.is_terminal:
            return
        bars = require("rich.progress", extra="sweep")
        columns = bars.BarColumn(), bars.MofNCompleteColumn(), bars.TextColumn("{task.fields[about]}", markup=False)
        self._bar = bars.Progress(*columns, console=self.console)
        self._task = self._bar.add_task("", total=counts.total, completed=counts.finished, about="")
        self._bar.start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()


def span(seconds: float) -> str:
    """Write a time for a reader."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
