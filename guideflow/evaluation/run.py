"""`evaluate`: measure every picture of a folder, by judges that did not guide."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path

from guideflow import registry
from guideflow._require import count, require
from guideflow.errors import GuideflowError, InvalidArgument, InvalidImage
from guideflow.evaluation.folder import EXTRA, METRICS, Folder, read_folder, write_table
from guideflow.evaluation.heldout import Guidance, guidance, require_held_out
from guideflow.evaluation.protocols import Protocol, load_protocol, protocol_of
from guideflow.metrics.base import Case, Measured, Metric
from guideflow.storage import versions

FREE = ("guidance-loss", "distance", "diversity", "seconds", "network-evaluations", "peak-memory")
"""Metrics that look through no network: what is measured where nothing else is asked for."""

_SCHEMA = (("job", "text"), ("metric", "text"), ("value", "number"), ("detected", "flag"), ("note", "text"))

Progress = Callable[[str, int, int], None]
"""Told after each batch: the metric, how many pictures it has measured, and of how many."""


@dataclass(frozen=True)
class About:
    """What tables need to know of a metric.

    Arguments:
        better: "higher", "lower" or "neither".
        unit: Of its numbers.
        digits: Shown after the point.
        paired: Whether two pictures of one case can be compared.
        weights: SHA-256 of its networks, by place.
        guideflow: The version that measured.
        warnings: What is to be known about the judge.
    """

    better: str = "higher"
    unit: str = ""
    digits: int = 3
    paired: bool = True
    weights: Mapping[str, str] | None = None
    guideflow: str = ""
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Evaluation:
    """The pictures of a folder and what was measured on them.

    Arguments:
        folder: The jobs.
        metrics: What is known about each metric, by its label: its name with the options it was given.
        values: For each metric, what it said of each job that has a picture.
        protocol: The protocol that was followed, if one was.
    """

    folder: Folder
    metrics: Mapping[str, About]
    values: Mapping[str, Mapping[str, Measured]]
    protocol: Protocol | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is to be known about the judges."""
        return tuple(dict.fromkeys(line for about in self.metrics.values() for line in about.warnings))


def evaluate(
    folder: str | Path,
    metrics: Sequence[str | Metric] | None = None,
    *,
    protocol: str | Path | Protocol | None = None,
    again: bool = False,
    batch: int = 16,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure the pictures of a folder, and write `metrics.parquet` into it.

    What has been measured before by the same weights is kept, so an evaluation goes on as the sweep does. A picture
    that cannot be measured gets no number and a note; it stops nothing.

    Arguments:
        folder: Of `guideflow sweep`, which may be unfinished, or of `Solution.save`.
        metrics: Names as `guideflow list metrics` shows them, or metrics; by default those of the protocol, or what
            needs no network and, in the avatars world, its judges.
        protocol: Name of a protocol, the path of one in YAML, or a protocol: it says which metrics count.
        again: Measure again what has been measured.
        batch: Pictures that a metric sees at a time.
        progress: Called after each batch.

    Returns:
        All that is measured in the folder.

    Raises:
        InvalidArgument: If there is nothing to measure, an option is out of range, or a metric judges by the weights
            that guided.
        UnknownPlugin: If there is no metric of a name.
    """
    count("batch", batch)
    jobs = read_folder(folder)
    rule = load_protocol(protocol) if isinstance(protocol, str | Path) else protocol
    if not jobs.done:
        raise InvalidArgument(f"No job in {jobs.path} has a picture yet. Let the sweep run first.")
    if metrics is not None and not metrics:
        raise InvalidArgument("Got no metric. Expected names as `guideflow list metrics` shows them.")
    drawn = all(row["sampler"].startswith("avatars-") for row in jobs.rows)
    chosen = dict(_chosen(metrics, rule or (load_protocol("avatars") if drawn else None)))
    guided = guidance(jobs)
    about = {label: _about(metric, label, guided) for label, metric in chosen.items()}
    before = read_metrics(jobs)
    known, values = dict(before.metrics), {label: dict(found) for label, found in before.values.items()}
    for label, metric in chosen.items():
        same = not again and label in known and known[label].weights == about[label].weights
        kept = {job: one for job, one in values[label].items() if _stands(one)} if same else {}
        values[label] = dict(_measure(metric, label, jobs, kept, batch, progress))
        known[label] = about[label]
        found = Evaluation(jobs, known, values, rule or before.protocol)
        _write(found)  # after each: an interrupted one loses little
    return found


def _stands(one: Measured) -> bool:
    """Whether a measurement need not be tried again: it has a number, or what it looked for was not there."""
    return isfinite(one.value) or one.detected is False


def _about(metric: Metric, label: str, guided: Guidance) -> About:
    """Refuse a metric that guided, and note what else is to be known about it."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        weights = require_held_out(metric, label, guided)
    for one in told:
        warnings.warn(one.message, one.category, stacklevel=3)
    lines = [str(one.message) for one in told]
    version = versions()["guideflow"]
    return About(metric.better, metric.unit, metric.digits, metric.paired, weights, version, lines)


def read_evaluation(folder: str | Path) -> Evaluation:
    """Read what `evaluate` has measured in a folder.

    Raises:
        InvalidArgument: If nothing has been.
    """
    found = read_metrics(read_folder(folder))
    if not found.metrics:
        path = found.folder.path
        raise InvalidArgument(f"Nothing has been measured in {path} yet. Type: guideflow evaluate {path}")
    return found


def label_of(metric: Metric) -> str:
    """Return how a metric is called in tables: by its name, and the options it was given."""
    config = registry.config(metric)
    if config is None:
        return metric.name or type(metric).__name__
    options = ",".join(f"{key}={value}" for key, value in config["options"].items())
    return f"{config['name']}:{options}" if options else str(config["name"])


def _chosen(metrics: Sequence[str | Metric] | None, rule: Protocol | None) -> Iterator[tuple[str, Metric]]:
    if metrics is None:
        for entry in rule.metrics if rule else ():
            try:
                made = registry.load_metric(entry.name, **entry.options)
            except GuideflowError as error:
                if not entry.optional:
                    raise
                warnings.warn(f"The metric {entry.name!r} of the protocol is left out: {error}", stacklevel=2)
                continue
            yield label_of(made), made
        metrics = FREE
    for one in metrics:
        made = registry.load_metric(one) if isinstance(one, str) else one
        if not isinstance(made, Metric):
            raise InvalidArgument(f"Got {one!r} as a metric. Expected a name or a guideflow.Metric.")
        yield label_of(made), made


def _measure(
    metric: Metric,
    label: str,
    jobs: Folder,
    kept: Mapping[str, Measured],
    batch: int,
    progress: Progress | None,
) -> Iterator[tuple[str, Measured]]:
    """Yield what a metric says of every job that has a picture."""
    cases = [jobs.case(row) for row in jobs.done]
    groups = [cases[i : i + batch] for i in range(0, len(cases), batch)]
    if metric.of_set:
        configs = dict.fromkeys(case.config for case in cases)
        groups = [[case for case in cases if case.config == one] for one in configs]
    done = 0
    for group in groups:
        whole = all(case.job in kept for case in group)
        todo = [] if whole else group if metric.of_set else [case for case in group if case.job not in kept]
        fresh = dict(zip((case.job for case in todo), _ask(metric, todo), strict=True))
        for case in group:
            yield case.job, fresh.get(case.job) or kept[case.job]
        done += len(group)
        if progress is not None:
            progress(label, done, len(cases))


def _ask(metric: Metric, cases: Sequence[Case]) -> list[Measured]:
    """Ask a metric; where a batch fails, picture by picture, so that one bad file harms no other."""
    lacking = {i: what for i, case in enumerate(cases) if (what := _lacks(metric, case))}
    asked = [case for i, case in enumerate(cases) if i not in lacking]
    if metric.of_set and asked:  # a file that cannot be read is left out of the set
        broken = {case.job: why for case in asked if (why := _unreadable(metric, case))}
        lacking |= {i: broken[case.job] for i, case in enumerate(cases) if case.job in broken}
        asked = [case for case in asked if case.job not in broken]
    try:
        answers = list(metric(asked)) if asked else []
        if len(answers) != len(asked):
            raise InvalidArgument(f"it returned {len(answers)} numbers for {len(asked)} pictures")
    except Exception as error:
        if len(asked) > 1 and not metric.of_set:
            answers = [_ask(metric, [case])[0] for case in asked]
        else:
            answers = [Measured(note=_why(error))] * len(asked)
    given = iter(answers)
    return [Measured(note=lacking[i]) if i in lacking else next(given) for i in range(len(cases))]


def _lacks(metric: Metric, case: Case) -> str:
    there = {"reference": case.target, "unguided": case.plain, "prompt": case.prompt.strip() or None}
    return next((f"no {what}" for what in metric.needs if there.get(what, True) is None), "")


def _unreadable(metric: Metric, case: Case) -> str:
    try:
        case.image, "unguided" in metric.needs and case.unguided  # noqa: B018  # reads them
    except InvalidImage as error:
        return _why(error)
    return ""


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def read_metrics(jobs: Folder) -> Evaluation:
    """Read what has been measured of some jobs; nothing where nothing has been."""
    path = jobs.path / METRICS
    if not path.is_file():
        return Evaluation(jobs, {}, {})
    parquet, there = require("pyarrow.parquet", extra=EXTRA), {row["job"] for row in jobs.rows}
    try:
        table = parquet.read_table(path)
        text = json.loads((table.schema.metadata or {})[b"guideflow"])
        about = {label: About(**one) for label, one in text["metrics"].items()}
        rule = None if text["protocol"] is None else protocol_of(text["protocol"], path)
        values: dict[str, dict[str, Measured]] = {label: {} for label in about}
        for row in table.to_pylist():
            if row["job"] in there:
                value = nan if row["value"] is None else row["value"]
                values[row["metric"]][row["job"]] = Measured(value, row["detected"], row["note"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"{path} is damaged ({_why(error)[:120]}). Delete it and evaluate again.") from error
    return Evaluation(jobs, about, values, rule)


def _write(found: Evaluation) -> None:
    rows = [
        {"job": job, "metric": label, **one._asdict(), "value": one.value if isfinite(one.value) else None}
        for label, values in found.values.items()
        for job, one in values.items()
    ]
    rule = None if found.protocol is None else asdict(found.protocol)
    text = json.dumps({"metrics": {label: asdict(one) for label, one in found.metrics.items()}, "protocol": rule})
    write_table(found.folder.path / METRICS, rows, _SCHEMA, text)
