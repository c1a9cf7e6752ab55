"""A progress bar in Jupyter and Colab: a line of HTML drawn again in its place, so no package of widgets is needed."""

import sys
import time
from html import escape

_APART = 0.1
"""Seconds from one drawing to the next: more would fill the notebook's queue and show nothing new."""


def in_notebook() -> bool:
    """Tell whether what is displayed goes to a notebook; the IPython of a terminal has no kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class NotebookBar:
    """A bar that stays under the cell.

    Arguments:
        total: number of iterations.
    """

    def __init__(self, total: int) -> None:
        from IPython.display import display

        self.total, self.done, self.text = total, 0, "choosing the start"
        self._numbers, self._first, self._drawn = "", (0, 0.0), 0.0
        self._handle = display(self, display_id=True)  # type: ignore[no-untyped-call]

    def update(self, done: int, loss: str, best: str) -> None:
        """Move the bar."""
        now = time.monotonic()
        if not self._numbers:
            self._first = done, now  # a resumed solve begins where it was
        self.done, self._numbers = done, f"guiding {done}/{self.total}, loss {loss}, best {best}"
        if now - self._drawn < _APART:
            return
        self._drawn = now
        begun_at, begun = self._first
        left = (now - begun) / max(1, done - begun_at) * (self.total - done)
        self._draw(f"{self._numbers}, {_clock(left)} left" if begun_at < done < self.total else self._numbers)

    def close(self) -> None:
        """Leave the bar where it is, with the last numbers."""
        if self._numbers:
            self._draw(f"{self._numbers}, {_clock(time.monotonic() - self._first[1])}")

    def _draw(self, text: str) -> None:
        self.text = text
        self._handle.update(self)

    def _repr_html_(self) -> str:
        bar = f'<progress value="{self.done}" max="{max(1, self.total)}" style="width: 16em; vertical-align: middle">'
        return f"<div>{bar}</progress> <code>{escape(self.text)}</code></div>"

    def __repr__(self) -> str:
        return self.text


def _clock(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{int(seconds) // 60}:{int(seconds) % 60:02}"
