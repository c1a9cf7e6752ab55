"""The rows of finished jobs: one for each look and the end, with its picture or with the error."""

import json
import math
import traceback
from collections.abc import Container, Mapping, Sequence
from functools import cache
from typing import Any

import torch

from guideflow import images, provenance
from guideflow.callbacks import Progress
from guideflow.errors import GuideflowError
from guideflow.losses.evaluation import COLUMNS
from guideflow.solution import Solution
from guideflow.storage import versions
from guideflow.sweep import parts
from guideflow.sweep.jobs import Batch, Config, Job

Row = dict[str, Any]


class Looks:
    """A callback that keeps what a solve would have come to, had it ended after so many iterations."""

    def __init__(self, iterations: Sequence[int]) -> None:
        self.iterations, self.found = frozenset(iterations), dict[int, Solution]()

    def __call__(self, progress: Progress) -> None:
        """Keep the solution so far, if this is an iteration to look at."""
        if progress.iteration in self.iterations:
            self.found[progress.iteration] = progress.solution()


def why(error: BaseException) -> str:
    """Write an error on one line; its kind and its place in the code too, unless it is meant for the user."""
    try:
        text = " ".join(str(error).split())[:500]
    except Exception:  # of a plugin's class whose text fails itself
        text = "of which it cannot say more"
    if isinstance(error, GuideflowError) and text:
        return text
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames and not isinstance(error, OSError) else ""
    return f"{type(error).__name__}: {text}{place}"


@cache
def _version() -> str:
    return str(versions()["guideflow"])


def about(batch: Batch, jobs: Sequence[Job]) -> list[Row]:
    """Begin the rows of some jobs of a batch: what is asked for."""
    config = batch.config
    common = {
        "sampler": config.sampler["name"],
        "loss": config.loss_name,
        "solver": config.solver["name"],
        "options": options(config),
        "config": config.key,
        "negative_prompt": config.solve["negative_prompt"],
        "guideflow": _version(),
    }
    return [
        {"job": job.key, "reference": job.reference.name or None, "prompt": job.prompt, "seed": job.seed, **common}
        for job in jobs
    ]


def options(config: Config) -> str:
    """Write every option of a config as JSON."""
    return json.dumps(
        {"sampler": config.sampler, "loss": {"terms": config.loss}, "solver": config.solver, "solve": config.solve},
        sort_keys=True,
        ensure_ascii=False,
    )


def failed(batch: Batch, jobs: Sequence[Job], error: str, done: Container[int] = ()) -> list[Row]:
    """Make the rows of jobs that failed, but for the looks before that."""
    looks = [look for look in batch.config.iterations if look not in done]
    return [
        row | {"iteration": look, "status": "failed", "error": error} for row in about(batch, jobs) for look in looks
    ]


def report(
    batch: Batch, jobs: Sequence[Job], found: Mapping[int, Solution], weights: Row
) -> tuple[list[Row], dict[str, bytes]]:
    """Make the rows of jobs, with their pictures, of what they had come to after some numbers of iterations."""
    rows, pictures = list[Row](), dict[str, bytes]()
    for i, (job, common) in enumerate(zip(jobs, about(batch, jobs), strict=True)):
        for look, solution in found.items():
            row = common | weights | {"iteration": look} | _measured(solution, i)
            if row["status"] == "done":
                row.update(_draw(batch, job, row, solution, i, pictures))
            rows.append(row)
    return rows, pictures


def until(
    batch: Batch, jobs: Sequence[Job], found: Mapping[int, Solution], weights: Row, error: str
) -> tuple[list[Row], dict[str, bytes]]:
    """Make the rows of jobs that failed after some looks; what cannot be looked at has failed too."""
    try:
        rows, pictures = report(batch, jobs, found, weights)
    except Exception:  # it was this that failed
        return failed(batch, jobs, error), {}
    return rows + failed(batch, jobs, error, found), pictures


def _measured(solution: Solution, i: int) -> Row:
    """Return what came of image i, by column."""
    result, stats, count = solution.result[i], solution.stats, len(solution.result)
    at = int(solution.kept.iteration[i])
    terms = [name for name in solution.history if name not in COLUMNS]
    return {
        "status": "failed" if result.failed else "done",
        "error": result.value if result.failed else None,
        "loss_value": _number(solution.loss[i]),
        "start_loss": _number(solution.history["loss"][0, i]),
        "terms": json.dumps({name: _number(solution.history[name][at, i]) for name in terms}),
        "result": result.name,
        "iterations": stats["iterations"],
        "seconds": stats["seconds"] / count,
        "network_evaluations": stats["network_evaluations"],
        "peak_memory": stats["peak_memory"],
        "batch": count,
    }


def _draw(batch: Batch, job: Job, row: Row, solution: Solution, i: int, pictures: dict[str, bytes]) -> Row:
    """Add the pictures of image i, and return where they go; a look's own has its iteration in its name."""
    look = row["iteration"]
    plain = parts.key(batch.config.sampler_key, batch.config.solve["negative_prompt"], job.prompt, job.seed)
    name = f"{look:05d}-{job.key}" if look in batch.config.looks else job.key
    shown = {"image": (name, solution.images[i]), "unguided": (f"unguided-{plain}", solution.unguided[i])}
    found: Row = {}
    for column, (name, image) in shown.items():
        if image.dim() == 3 and len(image) == 3 and image.min() >= -1e-3 and image.max() <= 1 + 1e-3:
            found[column] = f"pictures/{name[-2:]}/{name}.png"
            if found[column] not in pictures:  # the unguided one is that of all looks
                (picture, says), *_ = provenance.publish(image[None], solution.settings.watermark)
                about = _told(batch, row) | {"kind": column} | says
                pictures[found[column]] = images.png(picture, {f"guideflow:{key}": text for key, text in about.items()})
    return found


def _told(batch: Batch, row: Row) -> dict[str, str]:
    """Say in a picture what made it: nothing of the reference, and no path."""
    config = batch.config
    parts = {"sampler": config.sampler, "loss": {"terms": config.loss}, "solver": config.solver}
    return {
        **{name: str(row[name]) for name in ("job", "prompt", "seed", "iteration", "guideflow")},
        "configs": json.dumps(provenance.public(parts, {}), default=str),
        "settings": json.dumps(config.solve, default=str),
        "weights": json.dumps({name: row.get(name) for name in ("weights", "sampler_weights")}),
    }


def _number(value: torch.Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
