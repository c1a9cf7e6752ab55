"""The runs of all tabs of a page: one at a time, each with a folder of its own that goes with the tab."""

from __future__ import annotations

import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from guideflow.app.choices import Asked, choices
from guideflow.app.fields import Field
from guideflow.app.job import Job
from guideflow.app.recipe import Name, Part
from guideflow.app.uploads import MOST_PICTURES, is_blank, keep_drawing, keep_layout, keep_picture, keep_start
from guideflow.errors import InvalidArgument

_MOST_TABS = 16


class Studio:
    """What a server holds.

    Arguments:
        room: The folder where what is dropped into the page arrives; no file elsewhere is read.
    """

    def __init__(self, room: Path) -> None:
        self.room = room
        self._folder = Path(tempfile.mkdtemp(prefix="runs-", dir=room))
        self._jobs: dict[str, Job] = {}
        self._sampler: tuple[Part, Any] | None = None
        self._lock, self._threads = threading.Lock(), torch.get_num_threads()

    def prepare(self, tab: str, asked: Asked, dropped: Mapping[tuple[str, str], Any], start: Any = None) -> Job:
        """Read what was filled in and keep the pictures; the run before it in this tab is stopped and forgotten.

        Arguments:
            tab: Which tab it is.
            asked: What was filled in.
            dropped: By loss and option: the paths of files, a drawing, or both as a tuple.
            start: A photograph, and what was painted on it, if any.

        Raises:
            GuideflowError: If something is missing, out of range or no picture.
        """
        self.forget(tab)
        folder = self._folder / uuid4().hex
        folder.mkdir()
        try:

            def keep(loss: str, field: Field) -> list[Name]:
                return self._keep(folder, loss, field, dropped.get((loss, field.name)))

            job = Job(asked.recipe(keep, self._start(folder, start)), folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        while len(self._jobs) >= _MOST_TABS:
            self.forget(next(iter(self._jobs)))
        self._jobs[tab] = job
        return job

    def job(self, tab: str) -> Job | None:
        """Return the latest run of a tab."""
        return self._jobs.get(tab)

    def run(self, job: Job) -> Iterator[Job]:
        """Run a job after those before it; yields it whenever there is news."""
        part = job.recipe.sampler
        yield from job.follow(lambda: self.sampler(part), self._threads)

    def sampler(self, part: Part) -> Any:
        """Return a sampler; the latest one is kept, as loading takes longer than a picture."""
        with self._lock:
            if self._sampler is None or self._sampler[0] != part:
                self._sampler = None  # two of them may not fit
                self._sampler = part, part.load("sampler", self._folder)
            return self._sampler[1]

    def stop(self, tab: str) -> None:
        """Ask the run of a tab to stop, and no other tab's."""
        if job := self._jobs.get(tab):
            job.stop()

    def forget(self, tab: str) -> None:
        """Stop the run of a tab and remove its files."""
        if job := self._jobs.pop(tab, None):
            job.discard()

    def close(self) -> None:
        """Forget all."""
        for tab in list(self._jobs):
            self.forget(tab)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _keep(self, folder: Path, loss: str, field: Field, given: Any) -> list[Name]:
        files, drawing = given if isinstance(given, tuple) else (given, None)
        paths = [] if files is None else [files] if isinstance(files, str) else list(files)
        if len(paths) > MOST_PICTURES or (len(paths) > 1 and field.kind != "pictures"):
            most = MOST_PICTURES if field.kind == "pictures" else 1
            raise InvalidArgument(f"The {field.name} of {loss} takes at most {most} pictures. Remove some.")
        save = keep_layout if field.kind == "layout" else keep_picture
        names = []
        for i, path in enumerate(paths):
            name = Name(f"{loss}-{field.name}{f'-{i + 1}' if len(paths) > 1 else ''}.png")
            save(path, folder / name, self.room)
            names.append(name)
        if not names and drawing is not None and not is_blank(drawing):
            names.append(Name(f"{loss}-{field.name}.png"))
            keep_drawing(drawing, folder / names[0])
        return names

    def _start(self, folder: Path, start: Any) -> dict[str, Name]:
        if start is None or start[0] is None:
            return {}
        photograph, painted = start
        return {name: Name(f"{name}.png") for name in keep_start(photograph, painted, folder)}


def files(job: Job) -> list[Path]:
    """Write what can be downloaded of a finished job: its pictures, and all that is needed to make them again."""
    if job.solution is None:
        return []
    result = job.folder / "result"
    pictures = sorted(result.glob("guided-*.png"))
    target = job.folder / "everything.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for picture in (*pictures, *sorted(result.glob("unguided-*.png")), result / "history.csv"):
            archive.write(picture, picture.name)
        for name in sorted(job.folder.glob("*.png")):
            archive.write(name, name.name)
        archive.writestr("make.py", job.recipe.python())
        archive.writestr("make.sh", job.recipe.command())
    return [*pictures, target]


FIRST = {"sampler": ("avatars-perflow",), "loss": ("avatars-identity",), "solver": ("auto",)}
"""What the page starts with, where it is installed."""


def preferred(kind: str) -> str:
    """Return the name that the page starts with."""
    names = [one.name for one in choices(kind)]
    return next((name for name in FIRST[kind] if name in names), names[0])
