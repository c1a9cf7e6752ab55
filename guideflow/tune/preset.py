"""The preset that a search writes: the options that were chosen, and all that tells how they were found."""

import json
import os
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from guideflow import registry
from guideflow._files import write_whole
from guideflow.registry.presets import Preset
from guideflow.storage import versions
from guideflow.storage.origins import machine
from guideflow.sweep import Plan, parts, read
from guideflow.tune.results import Outcome, Point, Points
from guideflow.tune.spec import Tune


def write_preset(folder: Path, spec: Tune, outcome: Outcome, command: str) -> Outcome:
    """Write the preset of what was chosen, and return the outcome with its path.

    There is none where the sampler, the loss or the solver is of a file: a preset goes by names.
    """
    chosen = outcome.found.chosen
    assert chosen is not None
    sampler, solver, term = spec.sampler[0], spec.solver[0], spec.loss[0].terms[0]
    if any(registry.is_file(name) for name in (sampler.name, solver.name, term.name)):
        return replace(
            outcome, note="A preset goes by names, and something here is from a file. Give the options yourself."
        )
    made = parts.load_sampler({"name": sampler.name, "options": sampler.options}, spec.device)
    table = read(folder / "trials", ["weights", "sampler_weights", "status"]).to_pylist()
    row = next(row for row in table if row["status"] == "done")
    found = {
        "command": command,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": {**machine(made.device), "cores": os.cpu_count()},
        "versions": {**versions(), "optuna": version("optuna")},
        "weights": {"sampler": json.loads(row["sampler_weights"]), "loss": json.loads(row["weights"])},
        "rule": outcome.found.rule,
        "trial": chosen.number,
        "trials": len(outcome.found.points) - 1,
        "jobs": _jobs(outcome.found, chosen, spec),
        "check": outcome.check and _jobs(outcome.check, outcome.check.points[-1], spec.on_others()),
        "spec": json.loads(json.dumps(spec.written())),
        "note": spec.note,
    }
    given: dict[str, Any] = spec.configured(dict(chosen.options))["options"]
    preset = Preset(sampler.name, term.name, solver.name, given, made.num_steps, found)
    path = folder / f"{preset.name}.json"
    write_whole(path, preset.written())
    return replace(outcome, preset=path)


def _jobs(points: Points, chosen: Point, spec: Tune) -> dict[str, Any]:
    """Tell what the objectives came to, on how many jobs, of whom."""
    plan = Plan(spec.sweep([spec.configured(dict(chosen.options))]))
    values = {}
    for name, judge in zip(("metric", "cost"), points.judges, strict=True):
        mine, default = getattr(chosen, name), getattr(points.default, name)
        values[judge.label] = {"better": judge.better, "unguided": judge.unguided, "default": default, "preset": mine}
    return {
        "count": len(plan),
        "iterations": next(iter(plan.configurations())).iterations[-1],
        "objectives": values,
        "references": sorted(one.digest for one in plan.references),
    }
