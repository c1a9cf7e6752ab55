"""The reference pictures of a sweep: from files, folders, globs and tables."""

import csv
import glob
import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from guideflow._files import read_small
from guideflow._require import package_folders
from guideflow._told import did_you_mean, shorten
from guideflow.errors import InvalidArgument

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm"})
_COLUMNS: Final = ("reference", "path", "image", "file")
SEED: Final = "seed"
_FIELD = re.compile(r"\{(\w+)\}")
_WHOLE = re.compile(r"-?\d{1,18}")


@dataclass(frozen=True)
class Reference:
    """A reference picture.

    Arguments:
        name: As given; empty for none.
        path: Where it is.
        digest: Checksum of the file; empty if it cannot be read, which is then told by the jobs that want to.
        columns: What a table says of it.
    """

    name: str = ""
    path: str = ""
    digest: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    def prompts(self, templates: Sequence[str]) -> Iterator[str]:
        """Fill in what the table says, and list unlike prompts."""
        if not self.columns:
            return iter(templates)
        return iter(dict.fromkeys(_FIELD.sub(self._column, template) for template in templates))

    def seeds(self, given: Sequence[int]) -> Sequence[int]:
        """Return the seed that the table says, or those of the spec."""
        return (int(self.columns[SEED]),) if SEED in self.columns else given

    def _column(self, found: re.Match[str]) -> str:
        if found[1] not in self.columns:
            raise InvalidArgument(
                f"A prompt asks for {found[0]}, which the table of references has no column for."
                f"{did_you_mean(found[1], self.columns)} Its columns: {', '.join(self.columns)}."
            )
        return self.columns[found[1]]


def references(given: Sequence[str] | None) -> list[Reference]:
    """List the references that texts stand for, each once: files, folders, globs, tables and `package:NAME/path`.

    Raises:
        InvalidArgument: if a folder, a glob or a table yields nothing.
    """
    if given is None:
        return [Reference()]
    found = dict[str, Reference]()
    for text in given:
        for one in _expand(text):
            found.setdefault(one.name, one)
    return list(found.values())


def _expand(text: str) -> Iterator[Reference]:
    path = locate(text)
    try:
        folder = path.is_dir()
    except OSError as error:  # of names that are too long for the system
        raise InvalidArgument(f"The reference {shorten(text, 80)!r} cannot be looked up: {error.strerror}.") from error
    if folder:
        names = sorted(inner.name for inner in path.iterdir() if inner.suffix.lower() in SUFFIXES)
        if not names:
            raise InvalidArgument(f"The folder {text} holds no picture. Expected files such as .png or .jpg.")
        for name in names:
            yield _reference(f"{text.rstrip('/')}/{name}", path / name)
    elif path.suffix.lower() == ".csv":
        yield from _table(text, path)
    elif glob.has_magic(str(path)) and not path.exists():
        matches = [match for match in sorted(glob.glob(str(path), recursive=True)) if Path(match).is_file()]
        if not matches:
            raise InvalidArgument(f"No file matches {text}. Give another pattern, a folder or a table.")
        for match in matches:
            yield _reference(match, Path(match))
    else:
        yield _reference(text, path)


def locate(text: str) -> Path:
    """Find what a text stands for: a path, or `package:NAME/path` for a file inside an installed package."""
    kind, _, rest = text.partition("package:")
    if kind or not rest:
        return Path(os.path.expanduser(text))
    package, _, inner = rest.partition("/")
    places = [place for place in package_folders(package) if place.is_dir()]
    if not places:
        raise InvalidArgument(f"Got {text!r}, but no package {package!r} is installed.")
    return next((place / inner for place in places if (place / inner).exists()), places[0] / inner)


def _reference(name: str, path: Path, columns: Mapping[str, str] | None = None) -> Reference:
    try:
        digest = (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        )  # a pipe or a device has no end
    except (OSError, ValueError):  # the latter of a name with a zero byte
        digest = ""
    return Reference(name, str(path), digest, columns or {})


def _table(text: str, path: Path) -> Iterator[Reference]:
    try:
        table = io.StringIO(read_small(path), newline="")
        rows = [row for row in csv.DictReader(table) if any(row.values())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidArgument(f"The table {text} cannot be read: {error}.") from error
    if not rows:
        raise InvalidArgument(f"The table {text} has no rows. Expected a line of names, {_COLUMNS[0]} among them.")
    column = next((name for name in _COLUMNS if name in rows[0]), None)
    if column is None:
        named = ", ".join(map(str, rows[0]))
        raise InvalidArgument(f"The table {text} has the columns {named}. Expected one called {_COLUMNS[0]}.")
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values() or not row[column]:
            raise InvalidArgument(f"The table {text} has in row {line} not what its first line names, or no picture.")
        if SEED in row and not _WHOLE.fullmatch(row[SEED]):
            raise InvalidArgument(
                f"The table {text} has in row {line} the seed {row[SEED]!r}. Expected a whole number."
            )
        inner = Path(os.path.expanduser(row[column]))
        joined = inner if inner.is_absolute() else path.parent / inner
        yield _reference(str(joined), joined, row)
