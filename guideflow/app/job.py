"""A solve in a thread of its own, which is watched while it runs and asked to stop."""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guideflow import images, provenance
from guideflow._solve import solve
from guideflow.app.recipe import Recipe
from guideflow.app.uploads import fit_start
from guideflow.callbacks import Progress
from guideflow.errors import GuideflowError
from guideflow.losses.base import Loss, as_sum
from guideflow.losses.matching import FOUND
from guideflow.registry import find_preset
from guideflow.settings import Result
from guideflow.solution import Solution

_PREVIEW = 512  # pixels of a side at which iterations are shown


@dataclass(frozen=True)
class Frame:
    """The pictures of one iteration as WebP, and their losses."""

    iteration: int
    pictures: tuple[bytes, ...]
    losses: tuple[float, ...]


@dataclass
class Job:
    """A run from the click to its result.

    Arguments:
        recipe: What was asked for.
        folder: Where its pictures lie, and the result shall.
    """

    recipe: Recipe
    folder: Path
    state: str = "waiting"
    note: str = ""
    unguided: tuple[bytes, ...] = ()
    tried: int = 0
    candidates: int = 1
    planned: int = 0
    frames: list[Frame] = field(default_factory=list)
    guided: tuple[bytes, ...] = ()
    solution: Solution | None = None
    began: float = 0.0
    first: float = 0.0
    ended: float = 0.0
    _told: int = 0
    _running: bool = False
    _unwanted: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)
    _news: threading.Condition = field(default_factory=threading.Condition)
    _found: dict[str, set[int]] = field(default_factory=dict)

    def stop(self) -> None:
        """Ask to stop after the evaluation that is running; what was reached is kept."""
        self._stop.set()

    def discard(self) -> None:
        """Stop, and remove all files as soon as nothing writes any more."""
        self._unwanted = True
        self.stop()
        if not self._running:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop.is_set()

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state in ("done", "stopped", "failed")

    def follow(self, sampler: Callable[[], Any], threads: int, pause: float = 0.4) -> Iterator[Job]:
        """Run, and yield itself when there is something new, no more often than every `pause` seconds.

        Arguments:
            sampler: Returns the sampler.
            threads: That PyTorch computes with; a program of its own would use as many as the process does.
            pause: Seconds.
        """
        worker = threading.Thread(target=self._work, args=(sampler, threads), daemon=True)
        self._running = True
        worker.start()
        try:
            while worker.is_alive():
                seen = self._told
                yield self
                self._wait(seen)
                worker.join(timeout=pause)
        finally:
            if worker.is_alive():  # nobody watches any more
                self.stop()
                worker.join()
            self._running = False
            if self._unwanted:
                shutil.rmtree(self.folder, ignore_errors=True)
        yield self

    def _work(self, sampler: Callable[[], Any], threads: int) -> None:
        torch.set_num_threads(threads)  # a thread of its own would count them anew
        self.began = time.monotonic()
        try:
            self._tell(state="loading")
            loss, solver = self.recipe.load(self.folder)  # most likely wrong first
            made = sampler()
            if self.stopping:
                raise KeyboardInterrupt
            self.candidates = self.recipe.more.get("candidates") or solver.candidates
            fit_start(self.folder, made.image_size)
            self._watch(loss)
            self._tell(state="starting")
            given = self.recipe.options(self.folder)
            part = self.recipe.solver  # by name alone, `solve` looks for a preset, as what is shown to be typed does
            given["solver"] = solver if part.options else part.name
            self._finish(solve(made, loss, callback=self._look, **given))
        except KeyboardInterrupt:
            self._tell(state="stopped", note="Stopped before anything was made.")
        except Exception as error:
            self._fail(error)

    def _finish(self, solution: Solution) -> None:
        stopped = Result.INTERRUPTED in solution.result
        if stopped:
            choosing = solution.state.rollout.gradients is None
            tried = min(self.tried, solution.settings.candidates) if choosing else None
            used = find_preset(*solution.settings.preset.split(",")) if solution.settings.preset else None
            options = {} if used is None else used.options
            self.recipe = self.recipe.stopped(solution.state.iteration, tried, solution.settings.horizon, options)
        self._keep(solution)
        note = " ".join([*self._lost(), *dict.fromkeys(one.value for one in solution.result if one.failed)])
        self._tell(state="stopped" if stopped else "done", note=note, ended=time.monotonic())

    def _keep(self, solution: Solution) -> None:
        self.guided, self.solution = _encode(solution.images), solution
        self.unguided = _encode(solution.unguided)
        solution.save(self.folder / "result", overwrite=True)

    def _fail(self, error: Exception) -> None:
        why = str(error) if isinstance(error, GuideflowError) else f"{type(error).__name__}: {error}"
        why = " ".join(why.replace(f"{self.folder}/", "").split())
        found = getattr(error, "solution", None)
        if isinstance(found, Solution):
            with suppress(Exception):
                self._keep(found)
        self._tell(state="failed", note=why)

    def _watch(self, loss: Any) -> None:
        """Look over the shoulder of the losses while no callback is called yet: the start is being chosen."""
        for i, term in enumerate(as_sum(loss).terms):
            if isinstance(term.loss, Loss):
                with suppress(AttributeError):  # one that takes no attribute is not watched
                    object.__setattr__(term.loss, "evaluate", self._watched(term.loss, term.name, first=i == 0))

    def _watched(self, loss: Loss, name: str, first: bool) -> Callable[..., Any]:
        evaluate = type(loss).evaluate

        def watched(pictures: Tensor, iteration: int | None = None) -> Any:
            if first and self.tried and self.stopping:
                raise KeyboardInterrupt  # between two evaluations, so that candidates and iterations before count
            if not self.unguided:
                self.first = time.monotonic()
                self._tell(unguided=_encode(pictures))
            found = evaluate(loss, pictures, iteration)
            if outcome := getattr(loss, "outcome", None):
                seen = {i for i, each in enumerate(outcome.status) if FOUND in each}
                self._found[name] = self._found.get(name, set()) | seen
            if first and not self.frames:
                self._tell(tried=self.tried + 1)
            return found

        return watched

    def _look(self, progress: Progress) -> None:
        pictures, losses = progress.state.rollout.images, progress.loss.tolist()
        frame = Frame(progress.iteration, _encode(pictures), tuple(losses))
        self._tell(state="guiding", planned=progress.max_iterations, frames=[*self.frames, frame])
        if self.stopping:
            raise KeyboardInterrupt

    def _lost(self) -> list[str]:
        """Say which images a loss looked for a face or a thing in and never found one."""
        lines, seeds = [], self.recipe.seeds
        for name, found in self._found.items():
            if never := [seed for i, seed in enumerate(seeds) if i not in found]:
                which = "any image" if len(never) == len(seeds) else f"the image of seed {', '.join(map(str, never))}"
                lines.append(
                    f"{name} never found what it looks for in {which}, so it had nothing to guide there. Try another "
                    "seed, a prompt that shows it, or a loss that is made for pictures of this kind."
                )
        return lines

    def _wait(self, seen: int) -> None:
        with self._news:
            self._news.wait_for(lambda: self._told != seen, timeout=2.0)

    def _tell(self, **news: Any) -> None:
        for name, value in news.items():
            setattr(self, name, value)
        with self._news:
            self._told += 1
            self._news.notify_all()


def _encode(pictures: Tensor) -> tuple[bytes, ...]:
    """Write pictures for the page, small and quick; the files to download are PNGs."""
    from PIL import Image

    found = []
    for one in provenance.shown(pictures.detach().float().nan_to_num(0.0).clamp(0, 1).cpu())[0]:
        picture, content = images.to_pil(one), io.BytesIO()
        picture.thumbnail((_PREVIEW, _PREVIEW), Image.Resampling.LANCZOS)
        picture.save(content, format="WEBP", quality=92, method=2)
        found.append(content.getvalue())
    return tuple(found)
