"""The body of `guideflow run`: solve, save whatever was reached, and show it."""

import shlex
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guideflow._require import one_of
from guideflow.cli.codes import FAILED, INTERRUPTED, Failed
from guideflow.cli.console import console, visible
from guideflow.cli.options import load, load_losses
from guideflow.errors import CannotResume, FolderInUse, GuideflowError, InvalidArgument, InvalidImage
from guideflow.settings import Result
from guideflow.solution import Solution
from guideflow.storage.folder import MANIFEST, check_folder

MORE = 12  # iterations to go on by, as suggested


def solve_new(sampler: str | None, losses: list[str], solver: str | None, out: Path, **options: Any) -> int:
    """Solve anew, save and show. Arguments are as typed, options those of `solve`; the exit code is returned."""
    import guideflow as gf

    if sampler is None or not losses:
        what = "--sampler NAME" if sampler is None else "--loss NAME"
        raise InvalidArgument(
            f"Give {what}; `guideflow list` shows the names. To go on with a saved run, type --resume."
        )
    if (out / MANIFEST).exists():
        resume = f"--resume --out {shlex.quote(str(out))}"
        raise FolderInUse(f"{out} holds another run. Go on with it by {resume}, or give --out another folder.")
    check_folder(out)
    # Cheap and most likely mistyped first: a solver and the losses' references load before the sampler's weights.
    if solver is not None:
        options["solver"] = load("solver", solver)
    loss = load_losses(losses)
    options = {name: value for name, value in options.items() if value is not None}
    made, bar = load("sampler", sampler), gf.callbacks.ProgressBar()
    options = _fitted(made, **options)
    return _finish(lambda: gf.solve(made, loss, callback=bar, save_to=out, **options), out)


def _fitted(sampler: Any, *, fit: str | None = None, **options: Any) -> dict[str, Any]:
    """Bring start pictures and their masks to the size of a sampler, as --fit says, and return the other options."""
    from guideflow import images

    if fit is None:
        return options
    one_of("fit", fit, ("crop", "pad"))
    if "start" not in options:
        raise InvalidArgument("Got --fit without --start, the picture that it is for. Leave it out.")
    read = {name: [images.read_image(one) for one in options[name]] for name in ("start", "mask") if name in options}
    starts = read["start"]
    for i, mask in enumerate(read.get("mask", ())):
        start = starts[min(i, len(starts) - 1)]
        if mask.shape != start.shape:
            found, size = (f"{one.shape[3]}x{one.shape[2]}" for one in (mask, start))
            raise InvalidImage(f"Got a mask of {found} pixels. Expected the size of the start picture, {size}.")
    return options | {
        name: [images.fit(one, sampler.image_size, fit)[0] for one in many] for name, many in read.items()
    }


def resume_saved(
    out: Path, iterations: int | None, also_given: list[str], losses: list[str], trust: bool, checkpoint_every: int
) -> int:
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
    options: dict[str, Any] = {"loss": load_losses(losses) if losses else None, "trust": trust, "save_to": out}
    options |= {"callback": gf.callbacks.ProgressBar(), "checkpoint_every": checkpoint_every}
    return _finish(lambda: gf.resume(out, max_iterations=total, **options), out)


def _finish(solve: Callable[[], Solution], out: Path) -> int:
    try:
        solution = solve()
    except Exception as error:
        found = getattr(error, "solution", None)
        if isinstance(error, GuideflowError | OSError) and found is None:
            raise
        why = _why(error)
        if not isinstance(found, Solution):
            raise Failed(f"The solve failed before anything was made. {why}") from error
        where = _rescue(found, out)
        show(found, where)
        done = f"The solve failed after {found.state.iteration} iterations, which are saved in {where}. {why}"
        raise Failed(done, 2 if isinstance(error, GuideflowError | OSError) else FAILED) from error
    show(solution, out)
    if all(result.failed for result in solution.result):
        raise Failed("No image could be guided: the loss or its gradient was nan or inf in every one of them.")
    return INTERRUPTED if Result.INTERRUPTED in solution.result else 0


def _rescue(solution: Solution, out: Path) -> Path:
    """Save where there is room: the folder asked for, or else one in the folder for temporary files."""
    folders = (out, Path(tempfile.gettempdir()) / f"guideflow-{solution.settings.run[:8]}")
    for folder in folders:
        try:
            solution.save(folder)
        except (OSError, GuideflowError) as error:
            reason = error
        else:
            return folder
    raise Failed(f"The solve can be saved neither in {folders[0]} nor in {folders[1]}: {reason}") from reason


def _why(error: BaseException) -> str:
    """Write an error on one line, with the place in the code that raised it unless it is meant for the user."""
    if isinstance(error, GuideflowError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames and not isinstance(error, OSError) else ""
    return f"{type(error).__name__}: {error}{place}"


def show(solution: Solution, out: Path) -> None:
    """Print a table of the images, where the files are, and how to go on."""
    from rich.table import Table

    screen = console()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("image", "seed", "prompt", "start", "guided", "result"):
        left = name in ("prompt", "result")
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=name == "result")
    start, guided = solution.history["loss"][0].tolist(), solution.loss.tolist()
    for i, result in enumerate(solution.result):
        numbers = f"{start[i]:.4f}", f"{guided[i]:.4f}"
        prompt = visible(solution.prompts[i]) or "-"
        table.add_row(str(i), str(solution.seeds[i]), prompt, *numbers, _word(result))
    screen.print(table)
    for result in dict.fromkeys(solution.result):
        if result.failed:
            screen.print(f"{_word(result)}: {result.value}")
    if shorter := solution.stats.get("shorter_steps"):
        screen.print(f"{shorter} steps were shortened, as values became nan, inf or huge; a lower scale may be better.")
    images = sorted(out.glob("guided-*.png"))
    saved = f"{images[0]} to {images[-1].name}" if len(images) > 1 else str(images[0] if images else out)
    screen.print(visible(f"Saved {saved}, with history.csv and manifest.json."), soft_wrap=True)
    if any(result.can_go_on for result in solution.result):
        early = {Result.INTERRUPTED, Result.ERROR} & {*solution.result}
        more = solution.settings.max_iterations + (0 if early else MORE)
        command = f"guideflow run --resume --out {shlex.quote(str(out))} --iterations {more}"
        screen.print(visible(f"Go on with: {command}"), soft_wrap=True)


def _word(result: Result) -> str:
    return result.name.lower().replace("_", " ")
