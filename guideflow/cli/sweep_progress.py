"""How far a sweep is: a bar on a terminal, a line now and then elsewhere."""

import time
from collections import deque
from types import TracebackType
from typing import Any, Final

from guideflow._require import require
from guideflow.cli.console import console, visible
from guideflow.sweep.running import Counts
from guideflow.sweep.worker import Finished

_EVERY: Final = 30.0
_WINDOW: Final = 64
_ERRORS: Final = 20


class Progress:
    """Shows jobs done and failed, their rate and the time left.

    Arguments:
        screen: console of rich; a new one on standard error if None.
    """

    def __init__(self, screen: Any = None) -> None:
        self.console = screen or console(stderr=True)
        self.counts: Counts | None = None
        self._bar: Any = None
        self._task: Any = None
        self._told, self._errors = 0.0, set[str]()
        self._marks = deque[tuple[float, int]](maxlen=_WINDOW)  # when there was how much, of late

    def __call__(self, counts: Counts, finished: Finished | None) -> None:
        """Show the counts."""
        now = time.monotonic()
        if self.counts is None:
            self._begin(counts, now)
        self.counts = counts
        if finished is not None:  # from the first batch on: before it, models were loaded
            self._marks.append((now, counts.finished))
        line = self.line()
        if self._bar is not None:
            self._bar.update(self._task, completed=counts.finished, about=line)
            for error in {row["error"] for row in finished.rows if row["status"] == "failed"} if finished else ():
                self._tell(error)
        elif finished is not None and (now - self._told >= _EVERY or counts.finished == counts.total):
            self._told = now
            print(", ".join(filter(None, (self._jobs(), line))), file=self.console.file, flush=True)

    def line(self) -> str:
        """Write rate, failures and the time left."""
        counts = self.counts
        assert counts is not None
        parts = [f"{counts.failed} failed"] if counts.failed else []
        (began, before), (now, there) = (self._marks[0], self._marks[-1]) if self._marks else ((0.0, 0),) * 2
        if now > began and there > before:
            rate = (there - before) / (now - began)
            parts.append(f"{rate:.1f} jobs/s" if rate >= 1 else f"{1 / rate:.1f} s a job")
            if counts.finished < counts.total:
                parts.append(f"{span((counts.total - counts.finished) / rate)} left")
        return ", ".join(parts) or ("" if self._marks else "starting")

    def _jobs(self) -> str:
        assert self.counts is not None
        return f"{self.counts.finished} of {self.counts.total} jobs"

    def _tell(self, error: str) -> None:
        """Show an error once, and not each of a thousand that differ in a number."""
        if error not in self._errors and len(self._errors) < _ERRORS:
            self._errors.add(error)
            self._bar.console.print(f"failed: {visible(error)}", style="red")

    def _begin(self, counts: Counts, now: float) -> None:
        self._told = now
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
