"""The figure of a solution."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from guideflow import provenance
from guideflow._require import require

_COLUMNS = 6
_INK = "#30343b"
_PALETTE = ("#2f6db5", "#d9822b", "#3c9a5f", "#b5485d", "#7a5fb0", "#8a6d3b", "#c668a8", "#5f6b7a")


def figure(solution: Any) -> Any:
    """Draw the first reference, unguided and guided images in columns, and the curves of the history below.

    What is no image is not drawn.
    """
    figures = require("matplotlib.figure", extra="plot")
    guided, history, kept, seeds = solution.images, solution.history, solution.kept.iteration, solution.seeds
    pictures = guided.dim() == 4 and guided.shape[1] == 3
    guided, unguided = (provenance.shown(one)[0] if pictures else one for one in (guided, solution.unguided))
    shown_references = list(solution.references)[:1] if pictures else []
    shown = range(min(len(seeds), _COLUMNS)) if pictures else range(0)
    columns = len(shown) + len(shown_references)
    curves = [name for name in history if name not in ("gradient_norm", "control_norm")]
    curves = ["loss"] if len(curves) <= 2 else curves
    curves += ["control_norm" if bool((history["control_norm"] > 0).any()) else "gradient_norm"]

    cell = 1.7
    width = max(7.0, cell * columns + 0.9)
    top = 2 * cell + 0.75 if pictures else 0.0
    drawn = figures.Figure(figsize=(width, top + 2.7), layout="constrained", facecolor="white")
    upper, lower = drawn.subfigures(2, 1, height_ratios=(top, 2.7)) if pictures else (None, drawn)
    if upper is not None:
        axes = upper.subplots(2, columns, squeeze=False)
        first = len(shown_references)
        for i in shown:
            loss = history["loss"][int(kept[i]), i]
            _show(axes[0][first + i], unguided[i], _title(solution.prompts[i], seeds[i]), _PALETTE[i])
            _show(axes[1][first + i], guided[i], f"loss {loss:.3g}", _PALETTE[i])
        for row, label in enumerate(("unguided", "guided")):
            axes[row][first].set_ylabel(label, color=_INK, fontsize=10, fontweight="bold")
        for reference in shown_references:
            _show(axes[0][0], reference, "reference")
            axes[1][0].set_axis_off()
    for axis, name in zip(lower.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        _curve(axis, name, history[name].double(), kept, seeds, legend=name == "loss" and not pictures)
    return drawn


def _title(prompt: str, seed: int) -> str:
    prompt = prompt if len(prompt) <= 18 else prompt[:17].rstrip() + "…"
    return f"{prompt}\nseed {seed}" if prompt else f"seed {seed}"


def _show(axis: Any, picture: Tensor, title: str, colour: str = _INK) -> None:
    axis.imshow(picture.detach().float().cpu().clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set_title(title, fontsize=8.5, color=colour)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _curve(axis: Any, name: str, values: Tensor, kept: Tensor, seeds: Sequence[int], *, legend: bool) -> None:
    for i, seed in enumerate(seeds):
        colour, last = _PALETTE[i % len(_PALETTE)], int(kept[i])
        axis.plot(values[:, i].numpy(), color=colour, linewidth=1.6, label=f"seed {seed}")
        if name == "loss":
            axis.plot(last, float(values[last, i]), "o", color=colour, markersize=5)
    axis.set_title(name.replace("_", " "), fontsize=10, color=_INK, loc="left")
    axis.set_xlabel("iteration", fontsize=8.5, color=_INK)
    axis.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8, colors=_INK, length=0)
    axis.xaxis.get_major_locator().set_params(integer=True)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color("#b8bdc4")
    if legend and 1 < len(seeds) <= len(_PALETTE):
        axis.legend(frameon=False, fontsize=7.5, labelcolor=_INK)
