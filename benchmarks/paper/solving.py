"""Runs the specs for a family by `guideflow sweep`, and measures them by `guideflow evaluate`."""

from __future__ import annotations

import datetime
import functools
import itertools
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import claims
import measured
import pairs

HERE = Path(__file__).resolve().parent
SEARCHED = "perflow"
SPECS = ("unguided", "auto", "sensitivity", "paper")
_ALL, _ONE = (0.5, 1.0, 2.0), (1.0,)
NEEDED: dict[str, dict[str, tuple[float, ...]]] = {
    "table1": {"unguided": (), "auto": (), "anchored": _ONE},
    "table2": {"unguided": (), "search": (), **dict.fromkeys(measured.PAPER, _ONE)},
    "fig6": {"unguided": (), **dict.fromkeys(("anchored", "unanchored", "noise-descent"), _ALL)},
    "fig15": {"unguided": (), "sensitivity": (), "anchored": _ALL},
    "all": {"unguided": (), "auto": (), "sensitivity": (), "search": (), **dict.fromkeys(measured.PAPER, _ALL)},
}
"""What a table is made of: whole specs and, of paper.yaml, rules at so many times the paper's setting. "search" stands
for the settings that it found."""

PLACED = ("avatars-identity-similarity", "denoise-error")
"""Metrics that may run on a GPU."""


class Options(NamedTuple):
    """What was typed, and how to type it again."""

    families: list[str]
    pairs: int
    iterations: int
    batch: int
    device: str
    work: Path
    results: Path
    command: str


def solve(family: str, what: str, options: Options) -> None:
    """Run the sweeps of a family that a table needs, as far as they are lacking, and measure them."""
    from guideflow.cli.sweep import run
    from guideflow.sweep import Plan, finished, read_spec

    folder = options.work / family
    folder.mkdir(parents=True, exist_ok=True)
    needed = NEEDED.get(what, {})
    for name in ("search",) if what == "search" else [one for one in SPECS if one in (*needed, "paper")]:
        spec = folder / f"{name}.yaml"
        write_spec(spec, name, family, needed, options)
        plan = Plan(read_spec(spec))
        if finished(plan, folder / name) < len(plan):
            (folder / "record.json").write_text(json.dumps(record(options), indent=1) + "\n")
        print(f"\n$ guideflow sweep {shlex.quote(str(spec))} --out {shlex.quote(str(folder / name))}", flush=True)
        run(spec, folder / name, None, False)
    measure(folder, options.device)


def measure(folder: Path, device: str) -> None:
    """Measure every sweep of a family that has a picture: only what has not been measured before."""
    from guideflow.cli.reading import load
    from guideflow.evaluation import evaluate
    from guideflow.evaluation.folder import read_folder

    placed = PLACED if device != "cpu" else ()
    names = [f"{name}:device={device}" if name in placed else name for name in measured.METRICS.values()]
    made: list[Any] = []
    for path in sorted(one.parent for one in folder.glob("*/manifest.json")):
        if not read_folder(path).done:
            continue
        print(
            f"\n$ guideflow evaluate {shlex.quote(str(path))} {' '.join(f'--metric {one}' for one in names)}",
            flush=True,
        )
        made = made or [load("metric", one) for one in names]
        evaluate(path, made)


def write_spec(path: Path, name: str, family: str, needed: dict[str, tuple[float, ...]], options: Options) -> None:
    """Write the copy of a spec for a family: what is needed of it, and what an earlier copy asked for."""
    import yaml

    spec = yaml.safe_load((HERE / f"{name}.yaml").read_text())
    people = -(-options.pairs // pairs.PROMPTS)
    if name == "search":
        table = pairs.write(options.work, name, range(pairs.PEOPLE, pairs.PEOPLE + min(pairs.SEARCHED, people)))
    else:
        before = -(-pairs.count(options.work / f"{family}.csv") // pairs.PROMPTS)
        table = pairs.write(options.work, family, range(max(people, before)))
    spec |= {"sampler": f"avatars-{family}", "references": str(table), "batch": options.batch, "device": options.device}
    if name == "auto":
        from avatars import preset_options

        spec["solver"] = {"name": "auto", "options": preset_options(family)}
    if options.iterations != 100 and spec.get("solve", {}).get("max_iterations"):
        last = spec["solve"]["max_iterations"] = claims.at(spec["solve"]["max_iterations"], options.iterations)
        looks = {claims.at(look, options.iterations) for look in spec.pop("looks", [])}
        spec |= {"looks": sorted(look for look in looks if look < last)} if looks else {}
    if name == "paper":
        earlier = yaml.safe_load(path.read_text())["solver"] if path.exists() else []
        wanted = [one for one in _each(spec["solver"]) if _factor(one) in needed.get(one["name"], ())]
        wanted += _found(options.results) if "search" in needed else []
        spec["solver"] = earlier + [one for one in wanted if one not in earlier]
    path.write_text(yaml.safe_dump(spec, sort_keys=False, width=120))


def _each(solvers: list[Any]) -> list[dict[str, Any]]:
    """List the solvers of a spec with their options, for every combination of their grids."""
    found = []
    for one in solvers:
        part = {"name": one} if isinstance(one, str) else one
        grid = part.get("grid", {})
        for values in itertools.product(*grid.values()):
            options = {**part.get("options", {}), **dict(zip(grid, values, strict=True))}
            found.append({"name": part["name"], "options": measured.plain(part["name"], options)})
    return found


def _factor(solver: dict[str, Any]) -> float:
    name = solver["name"]
    return solver["options"][measured.MAIN.get(name, "scale")] / measured.PAPER[name]


def _found(results: Path) -> list[dict[str, Any]]:
    """List the settings that the search has found."""
    rows = measured.read_rows(results / "search.csv")
    return [{"name": row["solver"], "options": json.loads(row["options"])} for row in rows if row["best"]]


def record(options: Options, family: str = "") -> dict[str, str]:
    """Say who solves where, for the rows of the CSV files: now, or what was written of a family."""
    if family:
        return json.loads((options.work / family / "record.json").read_text())
    from avatars import machine

    return {
        "command": options.command,
        "commit": _commit(),
        "date": str(datetime.date.today()),
        "machine": machine(options.device),
    }


@functools.cache
def _commit() -> str:
    asked = ["git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # a copy of the files alone
        return "unknown"
