"""Presets: options of a solver that were found for one sampler with one loss. JSON files, of which nothing is run.

A preset is called SAMPLER,LOSS,SOLVER.json, by the names as `guideflow list` shows them. It lies in the folder of the
user's own, which `GUIDEFLOW_PRESETS` names, `~/.config/guideflow/presets` by default; or in the folder `presets` of the
package that a plugin comes in. The user's come first, then those of the plugin that the sampler comes from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from guideflow._require import package_folders
from guideflow.errors import InvalidArgument, UnknownPlugin
from guideflow.registry.discovery import find, plugins

SCHEMA_NUMBER: Final = 1
VARIABLE: Final = "GUIDEFLOW_PRESETS"
_NAME: Final = re.compile(r"[\w.+-]+")
_LARGEST: Final = 2**20


@dataclass(frozen=True)
class Preset:
    """Options of a solver for one sampler with one loss.

    Arguments:
        sampler: Name of the sampler.
        loss: Name of the loss.
        solver: Name of the solver.
        options: Those of the solver that are not as by default.
        num_steps: Number of steps of the sampler that they were found with; it is used with no other.
        found: How they were found: command, date, machine, versions, weights, what the objectives came to, and on how
            many jobs.
        origin: The package that it comes from, with its version, or "your own".
        sha256: Checksum of the file.
    """

    sampler: str
    loss: str
    solver: str
    options: Mapping[str, Any]
    num_steps: int
    found: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    sha256: str = ""

    @property
    def name(self) -> str:
        """What its file is called, without the end."""
        return preset_name(self.sampler, self.loss, self.solver)

    @property
    def typed(self) -> str:
        """The solver with these options, as it is typed."""
        given = ",".join(f"{key}={_text(value)}" for key, value in self.options.items())
        return f"{self.solver}:{given}" if given else self.solver

    def written(self) -> bytes:
        """Return the file."""
        parts = {"sampler": self.sampler, "loss": self.loss, "solver": self.solver}
        about = {"num_steps": self.num_steps, "options": dict(self.options), "found": dict(self.found)}
        return (json.dumps({"preset": SCHEMA_NUMBER, **parts, **about}, indent=1) + "\n").encode()

    def record(self) -> dict[str, Any]:
        """Return what the manifest of a solve says of the preset it used."""
        return {"name": self.name, "origin": self.origin, "sha256": self.sha256, "date": self.found.get("date")}


def preset_name(sampler: str, loss: str, solver: str) -> str:
    """Return what the preset of three names is called; empty if they are not all names that `guideflow list` shows."""
    names = (sampler, loss, solver)
    return ",".join(names) if all(map(_NAME.fullmatch, names)) else ""


def find_preset(sampler: str, loss: str, solver: str) -> Preset | None:
    """Find the preset of a sampler, a loss and a solver by their names; None if there is none.

    Raises:
        InvalidArgument: If it cannot be read, or `GUIDEFLOW_PRESETS` names no folder.
    """
    if name := preset_name(sampler, loss, solver):
        for origin, folder in _folders(sampler):
            if (path := folder / f"{name}.json").exists():
                return read_preset(path, origin)
    return None


def list_presets() -> tuple[tuple[Preset, ...], Mapping[Path, str]]:
    """List all presets by name, and tell of those that cannot be read why."""
    found, broken = dict[str, Preset](), dict[Path, str]()
    for origin, folder in _folders():
        for path in sorted(folder.glob("*,*,*.json")):
            try:
                found.setdefault(path.name, read_preset(path, origin))
            except InvalidArgument as error:
                broken[path] = str(error)
    return tuple(found[name] for name in sorted(found)), broken


def read_preset(path: Path, origin: str = "") -> Preset:
    """Read a preset.

    Raises:
        InvalidArgument: If the file holds none, or another than its name says.
    """
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            raise damaged(path, "it is no file of less than 1 MB")
        content = path.read_bytes()
        value = json.loads(content.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise error if isinstance(error, InvalidArgument) else damaged(path, error) from error
    schema = value.get("preset") if isinstance(value, dict) else None
    if schema != SCHEMA_NUMBER:
        raise damaged(path, f"it has the format {schema!r}, and this guideflow reads {SCHEMA_NUMBER}")
    kinds = {"sampler": str, "loss": str, "solver": str, "options": dict, "num_steps": int, "found": dict}
    for key, kind in kinds.items():
        if type(value.get(key)) is not kind:
            raise damaged(path, f"its field {key!r} is {value.get(key)!r}")
    made = Preset(**{key: value[key] for key in kinds}, origin=origin, sha256=hashlib.sha256(content).hexdigest())
    if path.name != f"{made.name}.json":
        raise damaged(path, f"it is for {made.name or 'names that are not known'}, and called otherwise")
    return made


def damaged(path: Path | str, why: object) -> InvalidArgument:
    """Make the error about a preset that cannot be used."""
    before = f"The preset {path} cannot be used: {' '.join(str(why).split()).rstrip('.')}. Mend or remove it, or"
    return InvalidArgument(f"{before} go without: `preset=False`.").as_typed(f"{before} type --no-preset.")


def own_folder() -> Path:
    """Return the folder of the user's own presets, which need not be there."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(os.path.expanduser(given))
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(os.path.expanduser(config)) / "guideflow" / "presets"


def _folders(sampler: str | None = None) -> Iterator[tuple[str, Path]]:
    """List folders of presets, with what each comes from: the user's own, of the sampler's plugin, of the others."""
    own = own_folder()
    if os.environ.get(VARIABLE) and not own.is_dir():
        raise InvalidArgument(f"Got {VARIABLE}={os.environ[VARIABLE]!r}, which is no folder. Make it, or unset it.")
    yield "your own", own
    everyone = list(plugins())
    if sampler is not None:
        try:
            owner = find("sampler", sampler).plugin
        except UnknownPlugin:
            return
        everyone.sort(key=lambda plugin: plugin != owner)
    for plugin in everyone:
        folder = _beside(plugin.module.partition(".")[0])
        if folder is not None:
            yield f"{plugin.distribution} {plugin.version}", folder


def _beside(package: str) -> Path | None:
    """Find the folder `presets` of a package, without importing it."""
    places = [one / "presets" for one in package_folders(package)]
    return next((place for place in places if place.is_dir()), None)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
