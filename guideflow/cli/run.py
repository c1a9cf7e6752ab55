"""The body of `guideflow run`: solve, save whatever was reached, and show it."""

import os
import shlex
from pathlib import Path
from typing import Any

from guideflow.cli.options import load, load_losses
from guideflow.errors import CannotResume, FolderInUse, InvalidArgument
from guideflow.solution import Result, Solution

INTERRUPTED = 130
MORE = 12  # iterations to go on by, as suggested


def solve_new(sampler: str | None, losses: list[str], solver: str | None, out: Path, **options: Any) -> int:
    """Solve anew, save and show. Arguments are as typed, options those of `solve`; the exit code is returned."""
    import guideflow as gf

    if sampler is None or not losses:
        what = "--sampler NAME" if sampler is None else "--loss NAME"
        raise InvalidArgument(
            f"Give {what}; `guideflow list` shows the names. To go on with a saved run, type --resume."
        )
    _refuse_used(out)
    # Cheap and most likely mistyped first: a solver and the losses' references load before the sampler's weights.
    if solver is not None:
        options["solver"] = load("solver", solver)
    loss = load_losses(losses)
    options = {name: value for name, value in options.items() if value is not None}
    return _finish(gf.solve(load("sampler", sampler), loss, callback=gf.callbacks.ProgressBar(), **options), out)


def resume_saved(out: Path, iterations: int | None, also_given: list[str], losses: list[str], trust: bool) -> int:
    """Go on with a saved run, save and show; the exit code is returned. What cannot be loaded again is given again."""
    import guideflow as gf
    from guideflow._solve.rebuild import runs_code

    saved = Solution.load(out) if also_given in ([], ["--loss"]) else None
    if saved is None or (losses and saved.configs["loss"] is not None and not runs_code(saved.configs["loss"])):
        raise InvalidArgument(f"--resume takes {', '.join(also_given)} from the saved run. Leave them out.")
    total = saved.settings.max_iterations if iterations is None else iterations
    if saved.state.iteration >= total:
        raise CannotResume(
            f"{saved.state.iteration} iterations are done already. To go on, type "
            f"--iterations {saved.state.iteration + MORE} or any number above."
        )
    loss = load_losses(losses) if losses else None
    bar = gf.callbacks.ProgressBar()
    return _finish(gf.resume(out, max_iterations=total, loss=loss, callback=bar, trust=trust), out)


def _refuse_used(out: Path) -> None:
    """Refuse before the work what saving would refuse after it."""
    if out.exists() and not out.is_dir():
        raise InvalidArgument(f"{out} is a file. Give --out another name.")
    if (out / "manifest.json").exists():
        resume = f"--resume --out {shlex.quote(str(out))}"
        raise FolderInUse(f"{out} holds another run. Go on with it by {resume}, or give --out another folder.")
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InvalidArgument(f"{out} cannot be written: no permission for {existing}. Give --out another folder.")


def _finish(solution: Solution, out: Path) -> int:
    try:
        solution.save(out)
    except KeyboardInterrupt:
        # The second Ctrl-C of an impatient user must not lose what the first one kept.
        solution.save(out)
    show(solution, out)
    return INTERRUPTED if Result.INTERRUPTED in solution.result else 0


def show(solution: Solution, out: Path) -> None:
    """Print a table of the images, where the files are, and how to go on."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("image", "seed", "prompt", "start", "guided", "result"):
        left = name in ("prompt", "result")
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=name == "result")
    start, guided = solution.history["loss"][0].tolist(), solution.loss.tolist()
    for i, result in enumerate(solution.result):
        numbers = f"{start[i]:.4f}", f"{guided[i]:.4f}"
        table.add_row(str(i), str(solution.seeds[i]), solution.prompts[i] or "-", *numbers, _word(result))
    console.print(table)
    for result in dict.fromkeys(solution.result):
        if result.failed:
            console.print(f"{_word(result)}: {result.value}", highlight=False)
    images = sorted(out.glob("guided-*.png"))
    saved = f"{images[0]} to {images[-1].name}" if len(images) > 1 else str(images[0] if images else out)
    console.print(f"Saved {saved}, with history.csv and manifest.json.", highlight=False, soft_wrap=True)
    if any(result.can_go_on for result in solution.result):
        more = solution.settings.max_iterations + (0 if Result.INTERRUPTED in solution.result else MORE)
        command = f"guideflow run --resume --out {shlex.quote(str(out))} --iterations {more}"
        console.print(f"Go on with: {command}", highlight=False, soft_wrap=True)


def _word(result: Result) -> str:
    return result.name.lower().replace("_", " ")
