"""What a folder says of the sweep in it, and whether another spec may go on with it."""

import json
import os
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from guideflow import registry
from guideflow._files import write_whole
from guideflow.errors import CannotResume, FolderInUse, InvalidArgument
from guideflow.storage import versions
from guideflow.storage.folder import MANIFEST, read_manifest
from guideflow.sweep.jobs import Plan
from guideflow.sweep.spec import Spec
from guideflow.sweep.store import PARTS, PICTURES, RESULTS

SCHEMA_NUMBER: Final = 2
SPEC: Final = "spec.yaml"
_OURS: Final = {MANIFEST, SPEC, RESULTS, PARTS, PICTURES, ".lock"}
_SHOWN: Final = 3
_COUNTED: Final = 10_000


class _Picture(BaseModel, strict=True):
    name: str
    sha256: str
    columns: dict[str, str]


class _Sweep(BaseModel, strict=True):
    """What is read of a manifest."""

    begun: str
    versions: dict[str, Any]
    samplers: dict[str, str]
    losses: dict[str, str]
    solvers: dict[str, str]
    solve: dict[str, str]
    looks: list[int]
    references: list[_Picture]
    spec: dict[str, Any]


def check_out(folder: Path) -> None:
    """Refuse a folder that holds something else than a sweep, before anything is written to it."""
    if folder.exists() and not folder.is_dir():
        raise InvalidArgument(f"{folder} is a file. Give --out another name, for a folder.")
    existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InvalidArgument(f"{folder} cannot be written: no permission for {existing}. Give --out another folder.")
    if folder.is_dir() and not (folder / MANIFEST).exists():
        foreign = [name for name in sorted(os.listdir(folder)) if name not in _OURS and not name.endswith(".part")]
        if foreign:
            raise FolderInUse(f"{folder} holds other files, such as {foreign[0]}. Give --out a folder of its own.")


def read_sweep(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of the sweep in a folder, None if there is none yet."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        found = read_manifest(path)
    except (CannotResume, OSError, ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"{path} cannot be read ({error}). Bring it back, or give --out another folder."
        ) from error
    if "sweep" not in found:
        raise FolderInUse(f"{folder} holds another run. Give --out a folder of its own.")
    if found["sweep"] != SCHEMA_NUMBER:
        made = found["versions"].get("guideflow") if isinstance(found.get("versions"), dict) else None
        raise InvalidArgument(
            f"{folder} was written in format {found['sweep']!r}; this guideflow writes {SCHEMA_NUMBER}. Install "
            f"guideflow {made}, or give --out another folder."
        )
    try:
        _Sweep.model_validate(found)
    except ValidationError as error:
        raise _damaged(path, error) from error
    return found


def _damaged(path: Path, error: ValidationError) -> InvalidArgument:
    fault = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, fault["loc"]))
    return InvalidArgument(
        f"{path} is damaged ({place}: {fault['msg']}). Bring back a copy, or give --out another folder."
    )


def write_sweep(folder: Path, plan: Plan, before: Mapping[str, Any] | None) -> None:
    """Write what the sweep is: `manifest.json`, which counts, and `spec.yaml` for people."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    manifest = {
        "sweep": SCHEMA_NUMBER,
        "begun": before["begun"] if before else now,
        "versions": before["versions"] if before else versions(),
        "distributions": distributions(plan),
        "jobs": len(plan),
        "spec": plan.spec.written(),
        **_contents(plan),
    }
    text = yaml.safe_dump(plan.spec.written(), sort_keys=False, allow_unicode=True, width=120)
    write_whole(folder / SPEC, text.encode())
    write_whole(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def distributions(plan: Plan) -> dict[str, str]:
    """Return the installed packages that samplers, losses and solvers of a sweep come from, with their versions."""
    names = {("sampler", one["name"]) for one in plan.samplers.values()}
    names |= {("loss", term["name"]) for terms in plan.losses.values() for term in terms}
    names |= {("solver", one["name"]) for one in plan.solvers.values()}
    plugins = [registry.find(kind, name).plugin for kind, name in sorted(names) if not registry.is_file(name)]
    return {plugin.distribution: plugin.version for plugin in plugins}


def _contents(plan: Plan) -> dict[str, Any]:
    """Return all that jobs are combined of."""
    return {
        "samplers": {key: describe(one) for key, one in plan.samplers.items()},
        "losses": {key: " + ".join(map(describe, terms)) for key, terms in plan.losses.items()},
        "solvers": {key: describe(one) for key, one in plan.solvers.items()},
        "solve": {key: _short(one) for key, one in plan.solves.items()},
        "looks": plan.spec.looks,
        "references": [
            {"name": one.name, "path": one.path, "sha256": one.digest, "columns": dict(one.columns)}
            for one in plan.references
        ],
    }


def describe(part: Mapping[str, Any]) -> str:
    """Write a part for a reader."""
    weight = f"{part['weight']:g}*" if part.get("weight", 1) != 1 else ""
    return f"{weight}{part['name']} {_short(part['options'])}".rstrip()


def _short(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items())


def changed_references(before: Mapping[str, Any], plan: Plan) -> set[str]:
    """Return the names of references that are other pictures than they were."""
    old = {one["name"]: one["sha256"] for one in before["references"]}
    return {one.name for one in plan.references if old.get(one.name, one.digest) != one.digest}


def check_adds(before: Mapping[str, Any], plan: Plan, folder: Path, rows_of: Any) -> None:
    """Refuse a spec that lacks jobs of the sweep in a folder, and say which.

    Arguments:
        before: the manifest.
        plan: of the spec.
        folder: of the sweep.
        rows_of: returns which of some references have rows that are done.
    """
    try:
        old = type(plan.spec).model_validate(before["spec"])
    except ValidationError as error:
        raise _damaged(folder / MANIFEST, error) from error
    lacking = list(islice(_lacking(before, old, plan), _COUNTED))
    if lacking:
        more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        raise FolderInUse(
            f"{folder} holds a sweep that this spec lacks jobs of: {'; '.join(lacking[:_SHOWN])}{more}. A spec may "
            "only add to it. Put them back, or give --out another folder."
        )
    if done := sorted(rows_of(changed_references(before, plan))):
        raise FolderInUse(
            f"{folder} holds jobs of {done[0]} as it was before: the file has changed. Bring the old one back, or give "
            "--out another folder."
        )


def _lacking(before: Mapping[str, Any], old: Spec, plan: Plan) -> Iterator[str]:
    now = _contents(plan)
    for kind in ("samplers", "losses", "solvers", "solve"):
        word = {"samplers": "sampler", "losses": "loss", "solvers": "solver"}.get(kind, kind)
        texts = set(now[kind].values())
        for key, text in before[kind].items():
            if key not in now[kind]:  # the same text is a part that is made of a file
                yield f"{word} {text}{' as it was before a file changed' if text in texts else ''}"
    if before["looks"] != now["looks"]:
        yield f"looks {before['looks']}, and not {now['looks']}"
    there = {(one.name, *sorted(one.columns.items())) for one in plan.references}
    for one in before["references"]:
        if (one["name"], *sorted(one["columns"].items())) not in there:
            yield f"reference {one['name']}" if one["name"] else "jobs without a reference"
    prompts, seeds = set(plan.spec.prompts), plan.spec.seeds
    yield from (f"prompt {prompt!r}" for prompt in old.prompts if prompt not in prompts)
    if old.seeds == seeds:  # which may be a range of any length
        return
    seeds = seeds if isinstance(seeds, range) else frozenset(seeds)
    yield from (f"seed {seed}" for seed in old.seeds if seed not in seeds)
