"""Run a search: each trial is a sweep of a few jobs, judged by what did not guide."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

from guideflow import registry
from guideflow.errors import GuideflowError, InvalidArgument
from guideflow.evaluation import evaluate, summarise
from guideflow.evaluation.folder import Folder
from guideflow.evaluation.heldout import guidance, require_held_out
from guideflow.evaluation.run import label_of
from guideflow.metrics.base import Metric
from guideflow.sweep import Batch, Plan, sweep
from guideflow.sweep.folder import read_sweep
from guideflow.sweep.lock import Lock
from guideflow.sweep.parts import key, load_solver
from guideflow.sweep.references import references
from guideflow.sweep.rows import options
from guideflow.sweep.worker import Finished, Room, Worker
from guideflow.tune import folder as about
from guideflow.tune.preset import write_preset
from guideflow.tune.results import Judge, Outcome, Point, Points, draw, write_table
from guideflow.tune.spec import Tune
from guideflow.tune.study import Study

Watch = Callable[[Point, Points, bool], object]
"""Is told each point, all there are by then, and whether it was there before."""


def tune(
    spec: Tune, out: str | PathLike[str], *, ray: str | None = None, watch: Watch | None = None, command: str = ""
) -> Outcome:
    """Search the options of a solver, and write the trials, their plot and a preset to a folder.

    Whatever ends it early, the same call goes on: no trial is lost or counted twice, and the pictures of the one that
    was at work are kept too. The same seed makes the same trials.

    Arguments:
        spec: From `read_tune`.
        out: Folder, made if missing. It may hold this search; `trials` may have grown.
        ray: As of `guideflow.sweep.sweep`; a cluster is started for each trial, unless it is an address.
        watch: Called with each point.
        command: What was typed, kept in the preset.

    Raises:
        FolderInUse: If the folder holds something else, or another process is at work in it.
        InvalidArgument: If a metric judges by the weights that guide, or no unguided picture can be measured.
        KeyboardInterrupt: After Ctrl-C; what was finished is kept.
    """
    folder = Path(out)
    about.check_out(folder, spec)
    search = _Search(spec, folder, ray)
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder)
    try:
        about.write_about(folder, spec)
        found = search.run(watch or (lambda *_: None))
        write_table(folder, found)
        draw(folder, found)
        return search.conclude(found, command)
    finally:
        lock.release()


class _Search:
    def __init__(self, spec: Tune, folder: Path, ray: str | None) -> None:
        self.spec, self.folder, self.ray = spec, folder, ray
        self.metrics = ready(spec)
        self.labels = [label_of(metric) for metric in self.metrics]
        self._worker = Worker(Room(spec.memory, spec.device))
        self.default = _default(spec)

    def run(self, watch: Watch) -> Points:
        """Run the trials that are not there yet, and return them all."""
        spec, judges = self.spec, self._judges(self.folder / "unguided", self.spec)
        study = Study(self.folder, spec.search, _directions(judges), spec.seed)
        points = Points((), judges, spec.at_most)
        for number in range(spec.trials + 1):
            before = number < len(study.trials)
            if not before:
                given = study.ask() if number else {}
                solver = spec.configured(given) if number else self.default
                values, note = self._measure(self.folder / "trials", spec, solver)
                study.tell(given if number else self._in_range(), values, note)
            points = replace(points, points=tuple(_points(study)[: number + 1]))
            watch(points.points[-1], points, before)
        return points

    def conclude(self, found: Points, command: str) -> Outcome:
        """Check the chosen point on other people, and write the preset if it is better than the default."""
        chosen, check = found.chosen, None
        if chosen is None:
            return Outcome(found, note=f"No trial is within the bound, {found.at_most:g} times the unguided pictures'.")
        if not chosen.number or not found.beats_default(chosen):
            return Outcome(found, note="No trial within the bound is better than the solver by default.")
        if self.spec.check is not None:
            check = self._check(chosen)
            if not check.beats_default(check.points[1]):
                return Outcome(found, check, note="On the people of the check it is not better than the default.")
        return write_preset(self.folder, self.spec, Outcome(found, check), command)

    def _check(self, chosen: Point) -> Points:
        spec, points = self.spec.on_others(), list[Point]()
        folder = self.folder / f"check-{key(spec.check and spec.check.model_dump(mode='json'))[:8]}"  # it may change
        judges = self._judges(folder / "unguided", spec)
        for point, solver in ((Point(0, {}, None, None), self.default), (chosen, spec.configured(chosen.options))):
            values, note = self._measure(folder / "guided", spec, solver)
            points.append(_point(point.number, point.options, values, note))
        return Points(tuple(points), judges, spec.at_most)

    def _judges(self, folder: Path, spec: Tune) -> tuple[Judge, Judge]:
        values, note = self._measure(folder, spec.unguided(), self.default)
        if values is None:
            raise InvalidArgument(f"The unguided pictures cannot be judged: {note}.")
        first, second = (
            Judge(label, metric.better, value)
            for label, metric, value in zip(self.labels, self.metrics, values, strict=True)
        )
        return first, second

    def _measure(self, folder: Path, spec: Tune, solver: dict[str, Any]) -> tuple[tuple[float, float] | None, str]:
        """Solve what is lacking of the jobs with a solver, and return the objectives; or None and why."""
        found = read_sweep(folder)  # a sweep may only grow; what is as by default is not written
        there = [] if found is None else found["spec"].get("solver", [{"name": "auto"}])
        folder.parent.mkdir(exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of judges, told once; of versions, told in the preset
            sweep(spec.sweep([*there, solver]), folder, ray=self.ray, engine=None if self.ray else self._engine)
            config = next(Plan(spec.sweep([solver])).configurations()).key
            whole = evaluate(folder, self.metrics) if _any_done(folder) else None
        if whole is None:
            return None, "every job failed"
        rows = tuple(row for row in whole.folder.rows if row["config"] == config)
        if failed := [row["error"] for row in rows if row["status"] != "done"]:
            return None, f"{len(failed)} of {len(rows)} jobs failed: {failed[0]}"
        summary = summarise(replace(whole, folder=replace(whole.folder, rows=rows)))
        metric, cost = (summary.cells[config, label].headline.mean for label in self.labels)
        if not isfinite(metric) or not isfinite(cost):
            notes = {one.note for label in self.labels for one in whole.values[label].values() if one.note}
            return None, f"nothing could be measured ({'; '.join(sorted(notes)) or 'no number'})"
        return (metric, cost), ""

    def _engine(self, batches: Iterator[Batch], room: Room) -> Iterator[Finished]:
        """Solve in this process, by one worker for all trials: it keeps the sampler."""
        yield from map(self._worker.finish, batches)

    def _in_range(self) -> dict[str, Any]:
        """Return the options by default as a trial, if they are all in range: Optuna learns from it."""
        config = registry.config(load_solver(self.default)) or {}
        own: dict[str, Any] = config.get("options", {})
        fits = all(name in own and values.holds(own[name]) for name, values in self.spec.search.items())
        return (
            {name: values.equal(own[name]) for name, values in self.spec.search.items()}
            if fits and not self.spec.solver[0].options
            else {}
        )


def ready(spec: Tune) -> list[Metric]:
    """Load the metrics of a search, and refuse it if it cannot be believed.

    Raises:
        InvalidArgument: If a metric says no better or worse, or looks through the network that guides, or somebody is
            searched on and checked on.
    """
    found = references(spec.references)
    if spec.check is not None:
        there = {one.digest for one in found if one.digest}
        if shared := [one.name for one in references(spec.check.references) if one.digest in there]:
            raise InvalidArgument(f"{shared[0]} is searched on and checked on. Give `check` other people.")
    metrics = [_metric(part, spec.device) for part in spec.judges]
    for metric in metrics:
        if metric.better == "neither":
            raise InvalidArgument(f"The metric {label_of(metric)!r} only describes. Expected one with a better end.")
    if metrics[1].better != "lower":
        raise InvalidArgument(
            f"The second objective, {label_of(metrics[1])!r}, is better when higher. Expected what must not grow, such "
            "as 'denoise-error'."
        )
    config = next(Plan(spec.sweep([spec.configured({})]), found).configurations())
    row = {"job": "", "status": "planned", "loss": config.loss_name, "options": options(config), "weights": None}
    guided = guidance(Folder(Path(), ({**row, "reference": found[0].path or None},)))
    for metric in metrics:
        require_held_out(metric, label_of(metric), guided)
    return metrics


def _default(spec: Tune) -> dict[str, Any]:
    """Return the solver with no option at all; with those that are not searched, if it cannot do without."""
    try:
        load_solver({"name": spec.solver[0].name})
    except GuideflowError:
        return spec.configured({})
    return {"name": spec.solver[0].name, "options": {}}


def _metric(part: Any, device: str | None) -> Metric:
    known: Any = registry.options(registry.factory("metric", part.name)) or ()
    placed = {"device": device} if device and any(option.name == "device" for option in known) else {}
    return registry.load_metric(part.name, **{**placed, **part.options})


def _directions(judges: tuple[Judge, Judge]) -> tuple[str, str]:
    first, second = ("maximize" if judge.better == "higher" else "minimize" for judge in judges)
    return first, second


def _points(study: Study) -> list[Point]:
    front = study.front()
    return [
        _point(
            trial.number,
            study.options(trial.params) if trial.number else {},
            None if trial.values is None else (trial.values[0], trial.values[1]),
            trial.user_attrs["note"],
            trial.number in front,
        )
        for trial in study.trials
    ]


def _point(
    number: int, given: Mapping[str, Any], values: tuple[float, float] | None, note: str, front: bool = False
) -> Point:
    metric, cost = values or (None, None)
    return Point(number, given, metric, cost, note, front)


def _any_done(folder: Path) -> bool:
    from guideflow.sweep import read

    return "done" in read(folder, ["status"])["status"].to_pylist()
