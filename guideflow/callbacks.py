"""Look on while a solve runs.

A callback is any callable that takes a `Progress`. It may also have `start(problem, max_iterations)` and `close()`,
called once before and after, the latter whatever happens.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any, TypeAlias

import torch
from torch import Tensor

from guideflow._given import as_place, count
from guideflow._notebook import NotebookBar, in_notebook
from guideflow._require import require
from guideflow._told import number, said
from guideflow.errors import InvalidArgument
from guideflow.problem import Problem
from guideflow.solvers import State
from guideflow.types import shown


@dataclass(frozen=True)
class Progress:
    """What a callback sees after an iteration.

    Arguments:
        iteration: 0 for the unguided image.
        max_iterations: number of iterations asked for.
        state: the solver's state.
        problem: what is being solved.
        best_loss: lowest loss so far of each image.
        active: whether each image is still being changed.
        seconds: time since the start, earlier parts of a resumed solve included.
        solution: returns the `Solution` that `solve` would, were this iteration its last.
    """

    iteration: int
    max_iterations: int
    state: State
    problem: Problem
    best_loss: Tensor
    active: tuple[bool, ...]
    seconds: float
    solution: Callable[[], Any]

    __repr__ = shown

    @property
    def loss(self) -> Tensor:
        """Current loss of each image."""
        return self.state.rollout.loss


Callback: TypeAlias = Callable[[Progress], object]


def as_callbacks(given: Callback | Sequence[Callback] | None) -> tuple[Callback, ...]:
    """Return none, one or several callbacks as a tuple."""
    callbacks = () if given is None else tuple(given) if isinstance(given, Sequence) else (given,)
    for callback in callbacks:
        if not callable(callback):
            raise InvalidArgument(f"Got {callback!r} as callback. Expected a callable that takes a `Progress`.")
    return callbacks


@contextmanager
def started(callbacks: Sequence[Callback], problem: Problem, max_iterations: int) -> Iterator[Callback]:
    """Start callbacks and give them as one; in the end close those that were started, even if one of them fails."""

    def call(progress: Progress) -> None:
        for callback in callbacks:
            callback(progress)

    with ExitStack() as stack:
        for callback in callbacks:
            stack.callback(getattr(callback, "close", lambda: None))
            getattr(callback, "start", lambda *_: None)(problem, max_iterations)
        yield call


class ProgressBar:
    """A bar with the mean loss, the lowest one and the time left, on the terminal, or under the cell of a notebook.

    Arguments:
        console: a rich console to draw on; None for a notebook's cell, or else standard error.
    """

    def __init__(self, console: Any = None) -> None:
        if console is not None and not (hasattr(console, "get_time") and hasattr(console, "print")):
            raise InvalidArgument(f"Got console={said(console)}. Expected a `rich.console.Console`, or None.")
        self.console = console
        self._bar: Any = None

    def __repr__(self) -> str:
        return "ProgressBar()"

    def start(self, problem: Problem, max_iterations: int) -> None:
        """Show the bar."""
        in_cell = self.console is None and in_notebook()
        self._bar = NotebookBar(max_iterations) if in_cell else _TerminalBar(max_iterations, self.console)

    def __call__(self, progress: Progress) -> None:
        """Move the bar."""
        loss, best = (number(values.nanmean().item()) for values in (progress.loss, progress.best_loss))
        self._bar.update(progress.iteration, loss, best)

    def close(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _TerminalBar:
    def __init__(self, total: int, console: Any) -> None:
        bars = require("rich.progress", extra="all")
        self._bar = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("loss {task.fields[loss]}  best {task.fields[best]}"),
            bars.TimeRemainingColumn(),
            console=console or require("rich.console", extra="all").Console(stderr=True),
        )
        self._task = self._bar.add_task("choosing the start", total=total, loss="", best="")
        self._bar.start()

    def update(self, done: int, loss: str, best: str) -> None:
        self._bar.update(self._task, description="guiding", completed=done, loss=loss, best=best)

    def close(self) -> None:
        self._bar.stop()


class Recorder:
    """Keep a value of every iteration.

    Arguments:
        what: takes a `Progress` and returns what to keep; by default the images.

    Attributes:
        values: what was kept, iteration 0 first.
    """

    def __init__(self, what: Callable[[Progress], Any] | None = None) -> None:
        if what is not None and not callable(what):
            raise InvalidArgument(
                f"Got what={said(what)}. Expected a function of a `Progress`, or None for the images."
            )
        self.what = (lambda progress: progress.state.rollout.images) if what is None else what
        self.values: list[Any] = []

    def __repr__(self) -> str:
        return f"Recorder({len(self.values)} values)"

    def __call__(self, progress: Progress) -> None:
        """Keep one value."""
        self.values.append(self.what(progress))


class ImageSnapshots:
    """Write the current images to a folder as one row, every few iterations.

    Arguments:
        directory: folder, made if missing.
        every: number of iterations between images; the unguided one is always written.
    """

    def __init__(self, directory: str | PathLike[str], *, every: int = 10) -> None:
        count("every", every)
        self.directory, self.every = as_place("directory", directory, "snapshots"), every

    def __repr__(self) -> str:
        return f"ImageSnapshots({str(self.directory)!r}, every={self.every})"

    def __call__(self, progress: Progress) -> None:
        """Write an image if it is time."""
        if progress.iteration % self.every:
            return
        from guideflow import images

        row = progress.state.rollout.images
        losses = ", ".join(f"{value:.6g}" for value in torch.nan_to_num(progress.loss).tolist())
        metadata = {"guideflow:iteration": str(progress.iteration), "guideflow:loss": losses}
        path = self.directory / f"iteration-{progress.iteration:04d}.png"
        images.save_image(path, images.grid(row, columns=len(row)), metadata)
