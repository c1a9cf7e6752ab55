"""The main job in one command: the same four seeds, without guidance and guided to people nobody trained on."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

import guideflow as gf
from guideflow._files import write_whole
from guideflow._require import require
from guideflow.cli.console import console, visible
from guideflow.storage.folder import check_folder

PROMPT = "a smiling person with a yellow t-shirt, purple background"
SEEDS = (0, 1, 2, 3)
PEOPLE = ("ada", "ben", "gus")

_INK, _BLUE = "#30343b", "#2f6db5"


def demo(out: Path) -> None:
    """Guide four seeds to each of three bundled portraits, print how alike they became, and draw `demo.png`."""
    avatars = require("guideflow_avatars", extra="diffusers")
    judges = require("guideflow_avatars.judges", extra="diffusers")
    require("matplotlib", extra="plot")  # asked for before the work, not after it
    check_folder(out, overwrite=True)
    out.mkdir(parents=True, exist_ok=True)
    screen = console()
    seeds = ", ".join(map(str, SEEDS))
    screen.print(PROMPT, style="bold")
    screen.print(f"seeds {seeds}, guided to {', '.join(PEOPLE)}\n")
    sampler = gf.load_sampler("avatars-perflow")
    solutions, scores = dict[str, gf.Solution](), dict[str, dict[str, tuple[float, float]]]()
    for name in PEOPLE:
        loss, bar = gf.load_loss("avatars-identity", reference=avatars.portrait(name)), gf.callbacks.ProgressBar()
        solution = gf.solve(sampler, loss, prompt=PROMPT, seed=SEEDS, callback=bar)
        solutions[name], scores[name] = solution, _scores(judges, loss, solution)
    screen.print()
    screen.print(_table(scores))
    screen.print(
        "guidance: cosine to the portrait, by the network that steered\n"
        "judge: the same, by a network that did not\n"
        "prompt: share of background, clothes and colour that are as asked\n",
        style="dim",
    )
    path = out / "demo.png"
    _figure(solutions).savefig(content := BytesIO(), format="png", dpi=85)
    write_whole(path, content.getvalue())
    screen.print(Text.assemble("Open ", (visible(path), "bold")), soft_wrap=True)


@torch.no_grad()
def _scores(judges: Any, loss: Any, solution: gf.Solution) -> dict[str, tuple[float, float]]:
    reference = solution.references[0][None]
    measures: dict[str, Callable[[Tensor], Tensor]] = {
        "guidance": lambda images: 1 - loss(images),
        "judge": lambda images: judges.identity_similarity(images, reference),
        "prompt": lambda images: judges.prompt_accuracy(images, solution.prompts),
    }
    return {
        name: (measure(solution.unguided).mean().item(), measure(solution.images).mean().item())
        for name, measure in measures.items()
    }


def _table(rows: dict[str, dict[str, tuple[float, float]]]) -> Table:
    table = Table(title="unguided -> guided, mean of the seeds", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("person")
    for name in next(iter(rows.values())):
        table.add_column(name, justify="right")
    for person, scores in rows.items():
        table.add_row(person, *(f"{before:.2f} -> {after:.2f}" for before, after in scores.values()))
    return table


def _figure(solutions: dict[str, gf.Solution]) -> Any:
    """Draw unguided images, then a row for each person with the reference in front, and the losses below."""
    figures = require("matplotlib.figure", extra="plot")
    rows, columns = len(solutions) + 1, len(SEEDS) + 1
    figure = figures.Figure(figsize=(1.7 * columns, 1.75 * rows + 2.5), layout="constrained", facecolor="white")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.75 * rows, 2.5))
    upper.suptitle(PROMPT, fontsize=12, color=_INK)
    axes = upper.subplots(rows, columns)
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].text(0.95, 0.5, "without\nguidance", ha="right", va="center", fontsize=11, color=_INK)
    for axis, seed, image in zip(axes[0, 1:], SEEDS, next(iter(solutions.values())).unguided, strict=True):
        _show(axis, image, f"seed {seed}", _INK)
    for row, (name, solution) in zip(axes[1:], solutions.items(), strict=True):
        _show(row[0], solution.references[0], f"reference: {name}", _BLUE)
        for axis, image in zip(row[1:], solution.images, strict=True):
            _show(axis, image, "", _INK)
    curves = lower.subplots(1, len(solutions), sharey=True)
    for axis, (name, solution) in zip(curves, solutions.items(), strict=True):
        for seed, curve, at in zip(SEEDS, solution.history["loss"].T, solution.kept.iteration.tolist(), strict=True):
            (line,) = axis.plot(curve.tolist(), label=f"seed {seed}", linewidth=1.6)
            axis.plot(at, curve[at].item(), "o", color=line.get_color(), markersize=4)  # the one that is shown
        axis.set_title(f"guided to {name}", fontsize=10, color=_BLUE)
        axis.set_xlabel("iteration", fontsize=9)
        axis.grid(axis="y", color="#e6e8eb")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(length=0, labelsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
    curves[0].set_ylim(bottom=0)
    curves[0].set_ylabel("identity loss", fontsize=9)
    curves[-1].legend(frameon=False, fontsize=8)
    return figure


def _show(axis: Any, image: Tensor, title: str, colour: str) -> None:
    picture = image.clamp(0, 1).permute(1, 2, 0).numpy()
    axis.imshow(picture, interpolation="lanczos")
    axis.set_title(title, fontsize=10, color=colour, fontweight="bold" if colour == _BLUE else "normal")
