"""A folder of finished pictures: of a sweep, which may be unfinished, or of `Solution.save`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guideflow._require import package_folders, require
from guideflow._told import shorten
from guideflow.errors import CannotResume, InvalidArgument
from guideflow.metrics.base import Case
from guideflow.metrics.kid import SUFFIXES
from guideflow.storage.folder import MANIFEST, read_manifest

RESULTS, PARTS, METRICS = "results.parquet", "parts", "metrics.parquet"
COLUMNS = ("job", "status", "sampler", "loss", "solver", "options", "config", "reference", "prompt", "seed", "image")
EXTRA = "evaluate"
_NEEDED = ("job", "status", "sampler", "loss", "solver", "config")
_TEXTS = (*_NEEDED, "error", "options", "reference", "prompt", "image", "unguided", "weights", "terms")
_WHOLE = ("seed", "iteration")


@dataclass(frozen=True)
class Folder:
    """The jobs of a folder.

    Arguments:
        path: The folder.
        rows: One for each job, and for each iteration that it was looked at, by the columns of the table; a row that
            failed has no picture. `key` and `group` tell rows and configurations apart: those of a look before the end
            have its iteration in them.
    """

    path: Path
    rows: tuple[Mapping[str, Any], ...]

    @property
    def ends(self) -> tuple[Mapping[str, Any], ...]:
        """Rows of the jobs' ends, one for each."""
        return tuple(row for row in self.rows if row["key"] == row["job"])

    @property
    def done(self) -> tuple[Mapping[str, Any], ...]:
        """Rows that have a picture."""
        return tuple(row for row in self.rows if row["status"] == "done" and row["image"])

    def case(self, row: Mapping[str, Any]) -> Case:
        """Return what metrics see of a row."""
        return Case(
            job=row["key"],
            picture=self.picture(row["image"]),
            plain=self.picture(row["unguided"]) if row.get("unguided") else None,
            target=self.reference(row),
            about=str(row.get("reference") or ""),
            prompt=str(row.get("prompt") or ""),
            seed=int(row.get("seed") or 0),
            config=row["group"],
            sampler={"name": row["sampler"], "options": sampler_options(row)},
            record=row,
        )

    def picture(self, name: str) -> Path:
        """Return a file of this folder; the table may come from anybody, so nothing else is read on its word."""
        whole = os.path.realpath(self.path / name)  # `Path.resolve` raises at a link to itself
        if "\0" in name or not Path(whole).is_relative_to(os.path.realpath(self.path)):
            raise InvalidArgument(f"The table of {self.path} names {name!r}, which is no file of that folder.")
        return Path(whole)

    def reference(self, row: Mapping[str, Any]) -> Path | None:
        """Find the reference of a row: as it is written, or in the folder; None if there is no such picture."""
        given = row.get("reference_file") or row.get("reference")
        places = [located(given), self.path / given] if given else []
        return next((one for one in places if one.suffix.lower() in SUFFIXES and os.path.isfile(one)), None)


def located(text: str) -> Path:
    """Find what a table calls a reference: a path, or `package:NAME/path` for a file of an installed package."""
    kind, _, rest = text.partition("package:")
    package, _, inner = rest.partition("/")
    places = package_folders(package) if inner and not kind else []
    return places[0] / inner if places else Path(os.path.expanduser(text))


def read_folder(path: str | Path) -> Folder:
    """Read the jobs of a folder.

    Raises:
        InvalidArgument: If it holds neither a sweep nor a saved solution, or its table lacks columns.
    """
    folder = Path(os.path.expanduser(path))
    if not folder.is_dir():
        raise InvalidArgument(f"There is no folder {folder}. Give one that `guideflow sweep` or `run` wrote.")
    tables = [
        *([folder / RESULTS] if (folder / RESULTS).is_file() else []),
        *sorted((folder / PARTS).glob("*.parquet")),
    ]
    if tables:
        return Folder(folder, _keyed(_unique(row for table in tables for row in _rows(table))))
    saved = [folder] if (folder / MANIFEST).is_file() else sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if not saved:
        raise InvalidArgument(
            f"{folder} holds neither {RESULTS} nor {MANIFEST}. Give a folder that `guideflow sweep` or `guideflow run` "
            "wrote, or one with several of the latter in it."
        )
    return Folder(folder, _keyed([row for one in saved for row in _of_solution(one, folder)]))


def _rows(table: Path) -> list[dict[str, Any]]:
    parquet = require("pyarrow.parquet", extra=EXTRA)
    try:
        rows: list[dict[str, Any]] = parquet.read_table(table).to_pylist()
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        why = " ".join(str(error).split())[:120]
        raise InvalidArgument(f"{table} cannot be read as Parquet ({why}). Run the sweep again.") from error
    if rows and (lacking := [name for name in COLUMNS if name not in rows[0]]):
        raise InvalidArgument(
            f"{table} has no column {lacking[0]!r}. Expected the table that `guideflow sweep` writes."
        )
    for row in rows:
        if fault := _fault(row):
            raise InvalidArgument(f"{table} has {fault}. Expected the table that `guideflow sweep` writes.")
    return rows


def _fault(row: Mapping[str, Any]) -> str:
    """Say what in a row is of another type than it should be; empty if nothing is."""
    for name in (*_TEXTS, *_WHOLE):
        value, kind = row.get(name), int if name in _WHOLE else str
        if type(value) is not kind and (value is not None or name in _NEEDED):
            return f"{shorten(repr(value), 80)} as {name!r}"
    return ""


def _unique(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Keep one row of each job and look, one that is done rather than one that failed."""
    found: dict[tuple[Any, Any], dict[str, Any]] = {}
    for row in rows:
        at = row["job"], row.get("iteration")
        if at not in found or (found[at]["status"] != "done" and row["status"] == "done"):
            found[at] = row
    return tuple(found.values())


def _keyed(rows: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Give rows the keys that tell the looks at a job apart: of the end, those of the job and its configuration."""
    last: dict[str, int] = {}
    for row in rows:
        last[row["job"]] = max(last.get(row["job"], 0), row.get("iteration") or 0)
    ends = ["" if last[row["job"]] == (row.get("iteration") or 0) else f"@{row['iteration']}" for row in rows]
    return tuple(
        {**row, "key": f"{row['job']}{end}", "group": f"{row['config']}{end}"}
        for row, end in zip(rows, ends, strict=True)
    )


def _of_solution(folder: Path, root: Path) -> tuple[dict[str, Any], ...]:
    """Write the pictures of a saved solution as rows of a sweep, of one configuration."""
    start = folder.relative_to(root).as_posix()
    start = "" if start == "." else f"{start}/"
    try:
        about = read_manifest(folder / MANIFEST)
        configs, stats, pictures = about["configs"], about["stats"], about["images"]
        count = len(pictures)
        common = {
            "status": "done",
            "error": "",
            "sampler": (configs.get("sampler") or {}).get("name", "by hand"),
            "loss": loss_name(configs.get("loss")),
            "solver": (configs.get("solver") or {}).get("name", "by hand"),
            "options": json.dumps(options := _options(about)),
            "config": hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:32],
            "reference": (reference := next((name for name in about.get("references") or () if name), None)),
            "reference_file": reference and f"{start}{reference}",
            "seconds": stats["seconds"] / count,
            "network_evaluations": stats["network_evaluations"],
            "peak_memory": stats["peak_memory"],
            "guideflow": about["versions"]["guideflow"],
            "weights": None,  # not recorded
            "configs": configs,
        }
        rows = tuple(
            {
                **common,
                "job": f"{about['run']}-{about['iteration']}-{i:02d}",
                "prompt": one["prompt"],
                "seed": one["seed"],
                "loss_value": float(one["loss"]),
                "terms": "{}",
                "image": f"{start}guided-{i:02d}.png",
                "unguided": f"{start}unguided-{i:02d}.png",
            }
            for i, one in enumerate(pictures)
        )
        if fault := next(filter(None, map(_fault, rows)), ""):
            raise ValueError(f"it has {fault}")
        return rows
    except (CannotResume, ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise InvalidArgument(f"{folder / MANIFEST} is not what `Solution.save` writes ({why}).") from error


def _options(about: Mapping[str, Any]) -> dict[str, Any]:
    """Tell what a saved solution was made with, but for reference, prompts and seeds."""
    kinds = ("sampler", "loss", "solver")
    found = {kind: about["configs"].get(kind) or {"name": "by hand", "options": {}} for kind in kinds}
    settings = {name: about["settings"].get(name) for name in ("max_iterations", "candidates", "keep")}
    settings["candidate_radius"] = about["settings"].get("candidate_radius", 1.0)
    plain: dict[str, Any] = json.loads(json.dumps(found | {"solve": settings}), object_hook=_without_reference)
    return plain


def _without_reference(one: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in ("reference", "references")}


def loss_name(config: Any) -> str:
    """Name a loss by its terms."""
    if not isinstance(config, Mapping):
        return "by hand"
    if "terms" in config:
        return " + ".join(
            (f"{term['weight']:g} * " if term["weight"] != 1 else "") + loss_name(term["loss"])
            for term in config["terms"]
        )
    return loss_name(config["balanced"]) if "balanced" in config else str(config.get("name"))


def options_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Read the options of a row: by kind, "sampler", "loss" and "solver", and others."""
    try:
        found = json.loads(row.get("options") or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def sampler_options(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the sampler of a row, written plainly or beside its name."""
    found = options_of(row).get("sampler", {})
    found = found.get("options", found) if isinstance(found, Mapping) else {}
    return dict(found) if isinstance(found, Mapping) else {}


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], schema: Sequence[tuple[str, str]], about: str) -> None:
    """Write a Parquet table, whole or not at all, with a text beside it in its metadata."""
    import io

    from guideflow._files import remove_left, write_whole

    pyarrow, parquet = require("pyarrow", extra=EXTRA), require("pyarrow.parquet", extra=EXTRA)
    kinds = {"text": "string", "number": "float64", "whole": "int64", "flag": "bool_"}
    types = {kind: getattr(pyarrow, name)() for kind, name in kinds.items()}
    fields = pyarrow.schema([(name, types[kind]) for name, kind in schema], metadata={"guideflow": about})
    parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=fields), content := io.BytesIO())
    write_whole(path, content.getvalue())
    remove_left(path.parent, [path.name])
