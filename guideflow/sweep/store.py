"""The table of a sweep on disk: small parts as they come, one table in the end, and never a row lost or twice.

One process writes, which a lock on the folder sees to. Finished rows become a part: a file of its own with the next
number, whole or not there. Parts are merged when there are many, and in the end into `results.parquet`. A merged file
tells which numbers it holds, so that of a merge that was killed either the parts count or what they became.
"""

import io
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from guideflow._files import write_whole
from guideflow.errors import InvalidArgument
from guideflow.sweep.lock import Lock

RESULTS: Final = "results.parquet"
PARTS: Final = "parts"
PICTURES: Final = "pictures"
SCHEMA: Final = pa.schema(
    {
        "job": pa.string(),
        "iteration": pa.int64(),
        "status": pa.string(),
        "error": pa.string(),
        "sampler": pa.string(),
        "loss": pa.string(),
        "solver": pa.string(),
        "options": pa.string(),
        "config": pa.string(),
        "reference": pa.string(),
        "prompt": pa.string(),
        "negative_prompt": pa.string(),
        "seed": pa.int64(),
        "loss_value": pa.float64(),
        "start_loss": pa.float64(),
        "terms": pa.string(),
        "result": pa.string(),
        "iterations": pa.int64(),
        "seconds": pa.float64(),
        "network_evaluations": pa.int64(),
        "peak_memory": pa.int64(),
        "batch": pa.int64(),
        "image": pa.string(),
        "unguided": pa.string(),
        "guideflow": pa.string(),
        "weights": pa.string(),
        "sampler_weights": pa.string(),
    }
)
"""The columns of the table: a row for each job and look. `options`, `terms` and both `weights` are JSON."""

_NUMBERS = re.compile(r"(\d{9})(?:-(\d{9}))?\.parquet")
_LEFT = re.compile(r"\..+-[0-9a-f]{32}\.part")
_UPTO: Final = b"guideflow.upto"
_MANY: Final = 256
_ROWS: Final = 20_000
_SECONDS: Final = 0.5
"""A part is written no more often: of many short jobs, this is what a process that is killed loses at most."""


class Keys:
    """A set of keys in little memory: 32 bytes each, however often each is named."""

    def __init__(self, keys: Iterable[Sequence[str]]) -> None:
        arrays = [np.array(some, dtype="S32") for some in keys]
        self._sorted = np.unique(np.concatenate([np.empty(0, "S32"), *arrays]))

    def __contains__(self, key: object) -> bool:
        wanted = str(key).encode()
        at = int(np.searchsorted(self._sorted, wanted))
        return at < len(self._sorted) and self._sorted[at] == wanted

    def __len__(self) -> int:
        return len(self._sorted)


class Store:
    """The table and the pictures of a folder, for the one process that writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock(folder)
        (folder / PARTS).mkdir(exist_ok=True)
        for place, _, names in os.walk(folder):
            _remove(Path(place, name) for name in filter(_LEFT.fullmatch, names))  # of a process that was killed
        files = [_upto(folder / RESULTS), *(last for _, last in map(_numbers, live(folder)))]
        self._last, self._small, self._rows, self._told = max(files), 0, list[Mapping[str, Any]](), 0.0

    def add(self, rows: Sequence[Mapping[str, Any]], pictures: Mapping[str, bytes]) -> None:
        """Write the pictures of finished jobs, and their rows within half a second or with the next ones."""
        for name, content in pictures.items():
            path = self.folder / name
            if not (path.name.startswith("unguided") and path.exists()):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, content)
        self._rows += rows
        if time.monotonic() - self._told >= _SECONDS or len(self._rows) >= _ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are not on the disk yet."""
        if self._rows:
            table = pa.Table.from_pylist(self._rows, schema=SCHEMA)
            pq.write_table(table, content := io.BytesIO(), compression="zstd")
            write_whole(self.folder / PARTS / f"{self._last + 1:09d}.parquet", content.getvalue())
            self._rows = []  # first: interrupted here, no row is written under another number once more
            self._last += 1
            self._small += 1
        self._told = time.monotonic()
        if self._small >= _MANY:
            files = [path for path in live(self.folder) if "-" not in path.name]
            first, last = _numbers(files[0])[0], _numbers(files[-1])[1]
            _write(self.folder / PARTS / f"{first:09d}-{last:09d}.parquet", _tables(files))
            self._small = 0
            _remove(files)

    def merge(self, keep: Callable[[pa.Table], pa.Table] | None = None) -> None:
        """Write the whole table to `results.parquet`; of what was there, only what `keep` returns."""
        self.flush()
        files = live(self.folder)
        if files or keep or not (self.folder / RESULTS).exists():
            whole = _tables([*_results(self.folder), *files])
            upto = max([self._last, *(last for _, last in map(_numbers, files))])
            _write(self.folder / RESULTS, map(keep, whole) if keep else whole, upto)
            self._small = 0
        _remove([path for path in (self.folder / PARTS).iterdir() if _NUMBERS.fullmatch(path.name)])

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.release()


def read(folder: str | PathLike[str], columns: Sequence[str] | None = None) -> pa.Table:
    """Read the table of a sweep, also of one that is at work or was killed; a row for each finished job and look.

    Arguments:
        folder: of the sweep.
        columns: Names of those to read; all by default.

    Raises:
        InvalidArgument: if the folder holds no sweep.
    """
    schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
    while True:
        before = _upto(Path(folder) / RESULTS)
        with suppress(FileNotFoundError):  # merged meanwhile, by the process that is at work
            found = pa.concat_tables([schema.empty_table(), *tables(Path(folder), columns)])
            if before == _upto(Path(folder) / RESULTS):
                return found


def tables(folder: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Read the table of a sweep piece by piece."""
    if not (folder / PARTS).is_dir() and not (folder / RESULTS).is_file():
        raise InvalidArgument(f"{folder} holds no sweep. Give the folder that `guideflow sweep` wrote.")
    return _tables([*_results(folder), *live(folder)], columns)


def live(folder: Path) -> list[Path]:
    """List the parts that no merged file holds, in the order they were written."""
    upto = _upto(folder / RESULTS)
    there = [path for path in (folder / PARTS).glob("*.parquet") if _NUMBERS.fullmatch(path.name)]
    spans = {path: _numbers(path) for path in there}
    merged = [span for span in spans.values() if span[1] > span[0]]

    def stale(span: tuple[int, int]) -> bool:
        return span[1] <= upto or any(a <= span[0] and span[1] <= b and (a, b) != span for a, b in merged)

    return sorted(path for path, span in spans.items() if not stale(span))


def _numbers(path: Path) -> tuple[int, int]:
    found = _NUMBERS.fullmatch(path.name)
    assert found is not None
    return int(found[1]), int(found[2] or found[1])


def _results(folder: Path) -> list[Path]:
    return [folder / RESULTS] if (folder / RESULTS).exists() else []


def _upto(results: Path) -> int:
    """Return the number of the last part that the table holds."""
    if not results.exists():
        return 0
    try:
        return int((pq.read_schema(results).metadata or {})[_UPTO])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        why = " ".join(str(error).split())[:120]
        raise InvalidArgument(
            f"{results} is no table of a sweep, or damaged ({why}). Bring back a copy, or remove it: its jobs are then "
            "done again."
        ) from error


def _tables(files: Iterable[Path], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                for name in columns or SCHEMA.names:
                    if file.schema_arrow.names.count(name) != 1 or not file.schema_arrow.field(name).equals(
                        SCHEMA.field(name)
                    ):
                        raise InvalidArgument(
                            f"{path} is damaged (its column {name!r} is none of a sweep). Remove it: its jobs are then "
                            "done again."
                        )
                for batch in file.iter_batches(_ROWS, columns=columns):
                    yield pa.Table.from_batches([batch]).replace_schema_metadata()
        except pa.ArrowException as error:
            raise InvalidArgument(f"{path} is damaged ({error}). Remove it: its jobs are then done again.") from error


def _write(path: Path, pieces: Iterable[pa.Table], upto: int = 0) -> None:
    """Write a table, whole or not at all, holding few of its pieces at a time."""
    partial = path.with_name(f".{path.name}-{uuid4().hex}.part")
    schema = SCHEMA.with_metadata({_UPTO: str(upto).encode()})
    try:
        with partial.open("xb") as file:
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for group in _groups(pieces):
                    writer.write_table(group.cast(schema))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _groups(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    held, rows = list[pa.Table](), 0
    for piece in pieces:
        held, rows = [*held, piece], rows + len(piece)
        if rows >= _ROWS:
            yield pa.concat_tables(held)
            held, rows = [], 0
    if held:
        yield pa.concat_tables(held)


def _remove(files: Iterable[Path]) -> None:
    for path in files:
        with suppress(OSError):
            path.unlink()
