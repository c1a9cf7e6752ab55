"""The body of `guideflow sweep`."""

import shlex
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from guideflow._require import require
from guideflow.cli.base import Command
from guideflow.cli.codes import FAILED, INTERRUPTED, Failed
from guideflow.cli.console import console, visible
from guideflow.errors import InvalidArgument

_SPECS = (".yaml", ".yml", ".json")


class SweepCommand(Command):
    """Lets `--ray` stand by itself, for this machine, or before an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the address in that was left out."""
        whole = list[str]()
        for i, one in enumerate(args):
            following = args[i + 1] if i + 1 < len(args) else "-"
            whole.append(one)
            if one == "--ray" and (following.startswith("-") or following.lower().endswith(_SPECS)):
                whole.append("local")
        return super().parse_args(ctx, whole)


def example() -> int:
    """Print a spec to begin with."""
    from guideflow.sweep.example import EXAMPLE

    print(EXAMPLE, end="")
    return 0


def plan_only(spec: Path, out: Path | None) -> int:
    """Print how many jobs there are, and what they will take."""
    from guideflow import sweep
    from guideflow.cli.sweep_progress import span
    from guideflow.registry.weights import gigabytes
    from guideflow.sweep.estimate import estimate

    read = sweep.read_spec(spec)
    plan, screen = sweep.Plan(read), console()
    folder = out or Path(spec.stem)
    there = sweep.finished(plan, folder)
    prompts = len(plan) // max(1, plan.configs * len(plan.references) * len(read.seeds))
    lines = {
        "jobs": f"{len(plan)}" + (f", {there} of them finished in {folder}" if there else ""),
        "samplers": len(plan.samplers),
        "losses": len(plan.losses),
        "solvers": len(plan.solvers),
        "settings": len(plan.solves),
        "references": len([one for one in plan.references if one.name]),
        "prompts": prompts,
        "seeds": len(read.seeds),
        **(
            {"looks": f"after {', '.join(map(str, read.looks))} iterations, each a row and a picture"}
            if read.looks
            else {}
        ),
    }
    for name, value in lines.items():
        screen.print(f"{name:<11} {value}")
    found = estimate(plan, len(plan) - there)
    if found.memory:
        screen.print(f"{'time':<11} about {span(found.seconds)} on one worker, one image at a time")
        screen.print(f"{'memory':<11} about {gigabytes(found.memory)} a worker, in batches of {read.batch}")
    for what, reason in found.unknown.items():
        screen.print(visible(f"unknown     {what}: {reason}"), soft_wrap=True)
    unread = [one.name for one in plan.references if one.name and not one.digest]
    if unread:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        screen.print(visible(f"unread      {unread[0]}{more}: no such file; its jobs will fail"), soft_wrap=True)
    return 0


def run(spec: Path, out: Path | None, ray: str | None, retry_failed: bool) -> int:
    """Run what is lacking of a sweep, and say what came of it."""
    from guideflow import sweep
    from guideflow.cli.sweep_progress import Progress

    read, folder = sweep.read_spec(spec), out or Path(spec.stem)
    if ray is not None:
        require("ray", extra="sweep")
    again = _command(spec, out, ray)
    progress = Progress()
    try:
        with progress, warnings.catch_warnings():
            warnings.showwarning = _show
            counts = sweep.sweep(read, folder, ray=ray, retry_failed=retry_failed, watch=progress)
    except KeyboardInterrupt as error:
        raise Failed(f"Interrupted: {_so_far(progress, folder)} Go on with: {again}", INTERRUPTED) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        why = f"{where}{error.strerror or error}"
        if progress.counts is None:
            raise
        raise Failed(f"{why}. {_so_far(progress, folder)} Make room, then go on with: {again}", 2) from error
    return _conclude(counts, folder, again)


def _so_far(progress: Any, folder: Path) -> str:
    counts = progress.counts
    if counts is None:
        return "nothing was done yet."
    return f"{counts.finished} of {counts.total} jobs are done and kept in {folder}."


def _command(spec: Path, out: Path | None, ray: str | None) -> str:
    words = ["guideflow", "sweep", str(spec)]
    words += ["--out", str(out)] if out is not None else []
    words += ["--ray", *([] if ray == "local" else [ray])] if ray is not None else []
    return shlex.join(words)


def _conclude(counts: Any, folder: Path, again: str) -> int:
    from guideflow import sweep

    screen = console()
    screen.print(f"{counts.done} of {counts.total} jobs done, {counts.failed} failed.")
    if counts.failed:
        table = sweep.read(folder, ["job", "status", "error"])
        rows = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
        kinds = Counter({job: error for job, status, error in rows if status == "failed"}.values())
        for error, number in kinds.most_common(5):
            screen.print(visible(f"  {number} x {error}"), soft_wrap=True)
        if len(kinds) > 5:
            screen.print(f"  and {len(kinds) - 5} other errors, in the column `error`.")
        screen.print(visible(f"Run them again with: {again} --retry-failed"), soft_wrap=True)
    screen.print(visible(f"Saved {folder / 'results.parquet'}, with the pictures beside it."), soft_wrap=True)
    if counts.done:
        screen.print(visible(f"Measure them with: guideflow evaluate {shlex.quote(str(folder))}"), soft_wrap=True)
    return FAILED if not counts.done and counts.failed else 0


def _show(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"guideflow: {visible(' '.join(str(message).split()))}", file=sys.stderr)


def check(spec: Path | None, ray: str | None, dry_run: bool, retry_failed: bool) -> Path:
    """Refuse what does not go together."""
    if spec is None:
        raise InvalidArgument("Give a spec; `guideflow sweep --example > sweep.yaml` writes one to begin with.")
    if dry_run and (ray is not None or retry_failed):
        raise InvalidArgument("Got --dry-run with --ray or --retry-failed. Leave those out: a dry run runs nothing.")
    return spec
