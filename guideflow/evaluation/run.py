"""`evaluate`: measure every picture of a folder, by judges that did not guide."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path

from guideflow import registry
from guideflow._given import count
from guideflow.errors import GuideflowError, InvalidArgument, InvalidImage
from guideflow.evaluation.folder import Folder, read_folder
from guideflow.evaluation.heldout import Guidance, guidance, require_held_out
from guideflow.evaluation.protocols import Protocol, load_protocol
from guideflow.evaluation.results import About, Evaluation, read_metrics, why, write_metrics
from guideflow.metrics.base import Case, Measured, Metric
from guideflow.storage import versions

FREE = ("guidance-loss", "distance", "diversity", "seconds", "network-evaluations", "peak-memory")
"""Metrics that look through no network: what is measured where nothing else is asked for."""


Progress = Callable[[str, int, int], None]
"""Told after each batch: the metric, how many pictures it has measured, and of how many."""


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
        write_metrics(found)  # after each: an interrupted one loses little
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
        broken = {case.job: told for case in asked if (told := _unreadable(metric, case))}
        lacking |= {i: broken[case.job] for i, case in enumerate(cases) if case.job in broken}
        asked = [case for case in asked if case.job not in broken]
    try:
        answers = list(metric(asked)) if asked else []
        if len(answers) != len(asked):
            raise InvalidArgument(f"it returned {len(answers)} numbers for {len(asked)} pictures")
        if odd := [one for one in answers if not isinstance(one, Measured)]:
            raise InvalidArgument(f"it returned a {type(odd[0]).__name__} in the place of a Measured")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if len(asked) > 1 and not metric.of_set:
            answers = [_ask(metric, [case])[0] for case in asked]
        else:
            answers = [Measured(note=why(error))] * len(asked)
    given = iter(answers)
    return [Measured(note=lacking[i]) if i in lacking else next(given) for i in range(len(cases))]


def _lacks(metric: Metric, case: Case) -> str:
    there = {"reference": case.target, "unguided": case.plain, "prompt": case.prompt.strip() or None}
    return next((f"no {what}" for what in metric.needs if there.get(what, True) is None), "")


def _unreadable(metric: Metric, case: Case) -> str:
    try:
        case.image, "unguided" in metric.needs and case.unguided  # noqa: B018  # reads them
    except InvalidImage as error:
        return why(error)
    return ""
