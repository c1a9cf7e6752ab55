"""The body of `guideflow run`: solve, save whatever was reached, and show it."""

import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from guideflow._given import one_of
from guideflow._solve.nonfinite import next_step
from guideflow.cli.codes import FAILED, INTERRUPTED, Failed
from guideflow.cli.console import console
from guideflow.cli.ends import told
from guideflow.cli.lost import lost
from guideflow.cli.reading import load, load_losses, name_of_loss, split_name
from guideflow.cli.show import MORE, draw, show, show_json
from guideflow.errors import CannotResume, FolderInUse, GuideflowError, InvalidArgument, InvalidImage
from guideflow.registry.loading import check_domains
from guideflow.settings import Result
from guideflow.solution import Solution
from guideflow.storage import forget
from guideflow.storage.folder import MANIFEST, check_folder


@dataclass(frozen=True)
class Asked:
    """What is asked of a run beside the solve."""

    out: Path
    checkpoint_every: int = 10
    time_limit: float | None = None
    save_every: int | None = None
    gif: bool = False
    mp4: bool = False
    open: bool = False
    json: bool = False

    @property
    def films(self) -> list[str]:
        """The films to write."""
        return [f"guided.{kind}" for kind, wanted in (("gif", self.gif), ("mp4", self.mp4)) if wanted]

    def check(self) -> None:
        """Refuse before the work what would fail after it."""
        from guideflow._require import require

        if self.mp4:
            require("imageio", extra="video")

    def callbacks(self) -> tuple[list[Any], list[Any]]:
        """Return the callbacks, and the list of the frames that one of them fills for films."""
        import guideflow as gf

        # In a file or a pipe a bar moves nowhere, and would be all that stands before an error.
        callbacks: list[Any] = [gf.callbacks.ProgressBar()] if console(stderr=True).is_terminal else []
        if self.save_every:
            callbacks.append(gf.callbacks.ImageSnapshots(self.out / "iterations", every=self.save_every))
        recorder = gf.callbacks.Recorder(lambda progress: progress.state.rollout.images.cpu().clone())
        return [*callbacks, recorder] if self.films else callbacks, recorder.values


def solve_new(
    sampler: str | None,
    losses: list[str],
    solver: str | None,
    references: Path | None,
    asked: Asked,
    force: bool,
    **options: Any,
) -> int:
    """Solve anew, save and show. Arguments are as typed, options those of `solve`; the exit code is returned."""
    import guideflow as gf

    if sampler is None or not losses:
        what = "--sampler NAME" if sampler is None else "--loss NAME"
        raise InvalidArgument(
            f"Give {what}; `guideflow list` shows the names. To go on with a saved run, type --resume."
        )
    if (asked.out / MANIFEST).exists() and not force:
        resume = f"--resume --out {shlex.quote(str(asked.out))}"
        raise FolderInUse(
            f"{asked.out} holds another run. Go on with it by {resume}, give --out another folder, or type --force to "
            "write over it."
        )
    asked.check()
    check_folder(asked.out, overwrite=force)
    # Cheap and most likely mistyped first: a solver and the losses' references load before the sampler's weights.
    if solver is not None:
        made, (name, given) = load("solver", solver), split_name(solver)
        options["solver"] = made if given else name  # by name alone, `solve` looks for a preset
    loss = load_losses(losses, references)
    options = {name: value for name, value in options.items() if value is not None}
    made = load("sampler", sampler)
    check_domains(split_name(sampler)[0], [name_of_loss(one) for one in losses])
    options = _fitted(made, **options)
    if force:
        forget(asked.out)
        shutil.rmtree(asked.out / "iterations", ignore_errors=True)
    callbacks, frames = asked.callbacks()
    options |= {"time_limit": asked.time_limit, "checkpoint_every": asked.checkpoint_every}
    return _finish(lambda: gf.solve(made, loss, callback=callbacks, save_to=asked.out, **options), asked, frames)


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
    asked: Asked, iterations: int | None, sampler: str | None, losses: list[str], solver: str | None, trust: bool
) -> int:
    """Go on with a saved run, save and show; the exit code is returned. What cannot be loaded again is given again."""
    import guideflow as gf
    from guideflow._solve.rebuild import runs_code

    asked.check()
    saved = Solution.load(asked.out)
    for kind, text in (("sampler", sampler), ("solver", solver)):
        config = saved.configs[kind]
        if text is not None and config is not None and not runs_code(config):
            raise InvalidArgument(f"--resume takes --{kind} from the saved run. Leave it out.")
    total = saved.settings.max_iterations if iterations is None else iterations
    if saved.state.iteration >= total:
        raise CannotResume(
            f"{saved.state.iteration} iterations are done already. To go on, type "
            f"--iterations {saved.state.iteration + MORE} or any number above."
        )
    callbacks, frames = asked.callbacks()
    options: dict[str, Any] = {"loss": load_losses(losses) if losses else None, "trust": trust, "save_to": asked.out}
    options |= {kind: load(kind, text) for kind, text in (("sampler", sampler), ("solver", solver)) if text}
    options |= {"callback": callbacks, "checkpoint_every": asked.checkpoint_every, "time_limit": asked.time_limit}
    return _finish(lambda: gf.resume(asked.out, max_iterations=total, **options), asked, frames)


def _finish(solve: Callable[[], Solution], asked: Asked, frames: Sequence[Any]) -> int:
    try:
        solution = solve()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, GeneratorExit and whatever else a plugin may raise
        found = getattr(error, "solution", None)
        if isinstance(error, GuideflowError | OSError) and found is None:
            raise
        if not isinstance(found, Solution):
            raise Failed(f"The solve failed before anything was made. {told(error)}") from error
        where = _rescue(found, asked.out)
        _show(found, where, asked, frames)
        done = f"The solve failed after {found.state.iteration} iterations, which are saved in {where}. {told(error)}"
        raise Failed(done, 2 if isinstance(error, GuideflowError | OSError) else FAILED) from error
    drawn = _show(solution, asked.out, asked, frames)
    if asked.open and drawn:
        typer.launch(str(asked.out / drawn[0]))
    if Result.INTERRUPTED in solution.result:
        return INTERRUPTED
    if all(result.failed for result in solution.result):
        what = "No image could be guided: the loss or its gradient was nan or inf in every one of them."
        raise Failed(f"{what} {next_step(solution) or 'Try another seed, or the terms of the loss one by one.'}")
    if why := lost(solution):
        raise Failed(why)
    return 0


def _show(solution: Solution, out: Path, asked: Asked, frames: Sequence[Any]) -> list[str]:
    drawn = draw(solution, out, frames, asked.films)
    (show_json if asked.json else show)(solution, out, drawn)
    return drawn


def _rescue(solution: Solution, out: Path) -> Path:
    """Save where there is room: the folder asked for, or else one in the folder for temporary files."""
    folders = (out, Path(tempfile.gettempdir()) / f"guideflow-{solution.settings.run[:8]}")
    for folder in folders:
        try:
            solution.save(folder)
        except Exception as error:  # whatever comes of memory that has run out, too
            reason = error
        else:
            return folder
    why = f"The solve can be saved neither in {folders[0]} nor in {folders[1]}: {told(reason)}"
    raise Failed(f"{why}{' --resume goes on from its last checkpoint.' * (out / MANIFEST).exists()}") from reason
