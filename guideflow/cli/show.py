"""What a finished run prints and draws."""

import json
import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from guideflow._files import remove_left
from guideflow._require import require
from guideflow._solve.nonfinite import next_step
from guideflow._told import number
from guideflow.cli.console import console, print_json, visible
from guideflow.errors import CannotResume, MissingExtra
from guideflow.images import from_pil, save_image, to_pil
from guideflow.provenance.publishing import mark
from guideflow.provenance.statement import statement
from guideflow.settings import Result
from guideflow.sheets import comparison, film, write_film
from guideflow.solution import Solution
from guideflow.storage import signed
from guideflow.storage.folder import MANIFEST, read_manifest

MORE = 12  # iterations to go on by, as suggested


def draw(solution: Solution, out: Path, frames: Sequence[Any] = (), films: Sequence[str] = ()) -> list[str]:
    """Draw the comparison, the plot and films into the folder; return the names of the files.

    What cannot be drawn is told: after the work it is no error.
    """
    drawn: list[str] = []
    try:
        remove_left(out, ["comparison.png", "plot.png", *films])
        if (sheet := comparison(solution)) is not None:
            _write(out / "comparison.png", sheet, solution)
            drawn.append("comparison.png")
        labels = [f"iteration {i}" for i in range(len(frames))]
        pictures = film(frames, labels) if films and len(frames) > 0 else []
        pictures = [_marked(picture, solution) for picture in pictures]
        for name in films if pictures else ():
            write_film(out / name, pictures, max(1.0, 0.15 * len(pictures)))
            drawn.append(name)
        from PIL import Image

        require("matplotlib", extra="plot")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of letters that the font has not
            solution.plot().savefig(content := BytesIO(), format="png", dpi=110)
        _write(out / "plot.png", Image.open(content), solution)
        drawn.append("plot.png")
    except MissingExtra as error:
        print(f"guideflow: There is no plot.png: {error}", file=sys.stderr)
    except Exception as error:  # of files, of memory, of libraries
        print(f"guideflow: Not everything could be drawn: {str(error) or type(error).__name__}", file=sys.stderr)
    return drawn


def _marked(sheet: Any, solution: Solution) -> Any:
    return to_pil(mark(from_pil(sheet)[0], solution.settings.watermark).picture)


def _write(path: Path, sheet: Any, solution: Solution) -> None:
    """Write a sheet of pictures as they are themselves: marked, signed, and with what made them."""
    told: dict[str, str] = {}
    with suppress(CannotResume, OSError, ValueError, LookupError, TypeError):  # of a folder without a manifest
        told = statement(read_manifest(path.parent / MANIFEST), 0, path.stem)
        told |= {"guideflow:prompt": json.dumps(solution.prompts), "guideflow:seed": json.dumps(solution.seeds)}
        told |= {"guideflow:loss": json.dumps([f"{loss:.9g}" for loss in solution.loss.tolist()])}
    picture, says = mark(from_pil(sheet)[0], solution.settings.watermark)
    told |= {f"guideflow:{name}": text for name, text in says.items()}
    save_image(path, picture, told, partial(signed, name=path.name))


def show(solution: Solution, out: Path, drawn: Sequence[str]) -> None:
    """Print a table of the images, where the files are, and how to go on."""
    from rich.table import Table

    screen = console()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("image", "seed", "prompt", "start", "guided", "result"):
        left = name in ("prompt", "result")
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=name == "result")
    start, guided = solution.history["loss"][0].tolist(), solution.loss.tolist()
    for i, result in enumerate(solution.result):
        numbers = number(start[i]), number(guided[i])
        prompt = visible(solution.prompts[i]) or "-"
        table.add_row(str(i), str(solution.seeds[i]), prompt, *numbers, word(result))
    screen.print(table)
    for result in dict.fromkeys(solution.result):
        if result.failed:
            screen.print(f"{word(result)}: {result.value}")
    if not all(result.failed for result in solution.result) and (hint := next_step(solution)):
        screen.print(visible(hint), soft_wrap=True)
    if (used := solution.settings.preset) and solution.configs["solver"]:
        options = ", ".join(f"{key}={value}" for key, value in solution.configs["solver"]["options"].items())
        screen.print(visible(f"Solved with the preset {used}: {options}."), soft_wrap=True)
    if shorter := solution.stats.get("shorter_steps"):
        screen.print(f"{shorter} steps were shortened, as values became nan, inf or huge; a lower scale may be better.")
    images = sorted(out.glob("guided-*.png"))
    saved = f"{images[0]} to {images[-1].name}" if len(images) > 1 else str(images[0] if images else out)
    screen.print(visible(f"Saved {saved}, with history.csv and manifest.json."), soft_wrap=True)
    if drawn:
        screen.print(visible(f"Look at {out / drawn[0]}{''.join(f', {name}' for name in drawn[1:])}."), soft_wrap=True)
    if command := go_on(solution, out):
        screen.print(visible(f"Go on with: {command}"), soft_wrap=True)


def go_on(solution: Solution, out: Path) -> str:
    """Return the command that goes on; empty if there is nothing to go on with."""
    if not any(result.can_go_on for result in solution.result):
        return ""
    early = {Result.INTERRUPTED, Result.ERROR, Result.TIME_LIMIT} & {*solution.result}
    more = solution.settings.max_iterations + (0 if early else MORE)
    return f"guideflow run --resume --out {shlex.quote(str(out))} --iterations {more}"


def show_json(solution: Solution, out: Path, drawn: Sequence[str]) -> None:
    """Print the same for programs."""
    columns = solution.history["loss"][0].tolist(), solution.loss.tolist(), solution.kept.iteration.tolist()
    images = [
        {
            "seed": solution.seeds[i],
            "prompt": solution.prompts[i],
            "loss_at_start": finite(start),
            "loss": finite(loss),
            "iteration": kept,
            "result": word(solution.result[i]),
            "file": str(path) if (path := out / f"guided-{i:02d}.png").exists() else None,
        }
        for i, (start, loss, kept) in enumerate(zip(*columns, strict=True))
    ]
    about = {
        "out": str(out),
        "iterations": solution.state.iteration,
        "seconds": round(float(solution.stats["seconds"]), 3),
        "images": images,
        "preset": solution.settings.preset,
        "drawn": [str(out / name) for name in drawn],
        "go_on": go_on(solution, out) or None,
    }
    print_json(about)


def finite(value: float) -> float | None:
    """Return a number that JSON knows."""
    return value if value == value and abs(value) != float("inf") else None


def word(result: Result) -> str:
    """Write a result in small letters."""
    return result.name.lower().replace("_", " ")
