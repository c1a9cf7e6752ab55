"""The body of `guideflow tune`."""

import shlex
import time
from pathlib import Path
from typing import Any

from guideflow._require import require
from guideflow._told import number
from guideflow.cli.codes import INTERRUPTED, Failed
from guideflow.cli.console import console, visible
from guideflow.errors import InvalidArgument
from guideflow.evaluation.tables import name


def example() -> int:
    """Print a spec to begin with."""
    from guideflow.tune.example import EXAMPLE

    print(EXAMPLE, end="")
    return 0


def check(spec: Path | None, ray: str | None, dry_run: bool) -> Path:
    """Refuse what does not go together."""
    if spec is None:
        raise InvalidArgument("Give a spec; `guideflow tune --example > tune.yaml` writes one to begin with.")
    if dry_run and ray is not None:
        raise InvalidArgument("Got --dry-run with --ray. Leave one out: a dry run runs nothing.")
    return spec


def plan_only(spec: Path, out: Path | None) -> int:
    """Print how many jobs there are, and what they will take."""
    from guideflow import tune
    from guideflow.cli.sweep_progress import span
    from guideflow.evaluation.run import label_of
    from guideflow.registry.weights import gigabytes
    from guideflow.sweep import Plan
    from guideflow.sweep.estimate import estimate
    from guideflow.tune.folder import check_out
    from guideflow.tune.running import ready

    read, screen = tune.read_tune(spec), console()
    check_out(out or Path(spec.stem), read)
    labels = [label_of(metric) for metric in ready(read)]
    plan = Plan(read.sweep([read.configured({})]))
    others = 0 if read.check is None else 2 * len(Plan(read.on_others().sweep([read.configured({})])))
    jobs = len(plan) * (read.trials + 1) + others
    lines = {
        "searched": ", ".join(read.search),
        "objectives": " and ".join(labels),
        "trials": f"{read.trials}, and the solver by default",
        "jobs": f"{len(plan)} a trial, {jobs} in all" + (f", {others} of them on other people" if others else ""),
    }
    for title, value in lines.items():
        screen.print(visible(f"{title:<11} {value}"), soft_wrap=True)
    found = estimate(plan, jobs)
    if found.memory:
        screen.print(f"{'time':<11} about {span(found.seconds)} on one worker, one image at a time")
        screen.print(f"{'memory':<11} about {gigabytes(found.memory)} a worker, in batches of {read.batch}")
    for what, reason in found.unknown.items():
        screen.print(visible(f"unknown     {what}: {reason}"), soft_wrap=True)
    return 0


def run(spec: Path, out: Path | None, ray: str | None) -> int:
    """Run what is lacking of a search, and say what came of it."""
    from guideflow import tune

    read, folder = tune.read_tune(spec), out or Path(spec.stem)
    if ray is not None:
        require("ray", extra="sweep")
    words = ["guideflow", "tune", str(spec), *(["--out", str(out)] if out else [])]
    words += ["--ray", *([] if ray == "local" else [ray])] if ray is not None else []
    progress = _Progress(read.trials)
    try:
        outcome = tune.tune(read, folder, ray=ray, watch=progress, command=shlex.join(words))
    except KeyboardInterrupt as error:
        done = f"{progress.done} of {read.trials} trials are done and kept in {folder}."
        raise Failed(f"Interrupted: {done} Go on with: {shlex.join(words)}", INTERRUPTED) from error
    _conclude(outcome, folder)
    return 0


class _Progress:
    """Prints a line for each trial, with the time left after it."""

    def __init__(self, trials: int) -> None:
        self.trials, self.done = trials, 0
        self._began: tuple[float, int] | None = None  # when which trial was there, after what takes time at first

    def __call__(self, point: Any, points: Any, before: bool) -> None:
        from guideflow.cli.sweep_progress import span

        self.done, now = point.number, time.monotonic()
        began, first = self._began or (now, point.number)
        self._began = None if before else (began, first)
        line = f"trial {point.number} of {self.trials}" if point.number else "by default"
        line += f": {_written(point)}".rstrip(": ") if point.options else ""
        line += f"  ->  {_values(point, points)}"
        if first < point.number < self.trials:
            line += f"  ({span((now - began) / (point.number - first) * (self.trials - point.number))} left)"
        console(stderr=True).print(visible(line), soft_wrap=True)


def _written(point: Any) -> str:
    return ", ".join(f"{k}={number(v) if isinstance(v, float) else v}" for k, v in point.options.items())


def _values(point: Any, points: Any) -> str:
    if point.metric is None:
        return f"failed: {point.note}"
    labels = [judge.label for judge in points.judges]
    metric, cost = (name(label, labels) for label in labels)
    return f"{metric} {point.metric:.3f}, {cost} {points.times(point):.2f} times unguided"


def _conclude(outcome: Any, folder: Path) -> None:
    screen, found = console(), outcome.found
    front = sorted((one for one in found.points if one.front and one.cost is not None), key=found.times)
    screen.print("Nothing is better in both than:")
    for point in front:
        mark = "*" if point == found.chosen else " "
        title = f"trial {point.number}, {_written(point)}" if point.number else "by default"
        screen.print(visible(f"{mark} {title}: {_values(point, found)}"), soft_wrap=True)
    screen.print(visible(f"The rule: {found.rule}."), soft_wrap=True)
    if outcome.check is not None:
        for point, title in zip(outcome.check.points, ("by default", "chosen"), strict=True):
            screen.print(visible(f"On other people, {title}: {_values(point, outcome.check)}"), soft_wrap=True)
    screen.print(visible(f"Saved {folder / 'trials.csv'} and front.png, with the pictures in trials/."), soft_wrap=True)
    if outcome.preset is None:
        screen.print(visible(f"There is no preset. {outcome.note}"), soft_wrap=True)
        return
    from guideflow.registry.presets import own_folder

    screen.print(visible(f"Wrote the preset {outcome.preset}. To have `solve` use it:"), soft_wrap=True)
    place = shlex.quote(str(own_folder()))
    screen.print(visible(f"  mkdir -p {place} && cp {shlex.quote(str(outcome.preset))} {place}"), soft_wrap=True)
