"""The figure of a solution."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from guideflow._require import require

if TYPE_CHECKING:
    from guideflow.solution import Solution

_COLUMNS = 6
_INK = "#30343b"
_PALETTE = ("#2f6db5", "#d9822b", "#3c9a5f", "#b5485d", "#7a5fb0", "#8a6d3b", "#c668a8", "#5f6b7a")


def plot(solution: "Solution") -> Any:
    """Draw references, unguided and guided images in columns, and the curves below."""
    figures = require("matplotlib.figure", extra="plot")
    pictures = solution.images.dim() == 4 and solution.images.shape[1] == 3
    references = list(solution.references)[:1] if pictures else []
    shown = range(min(len(solution.result), _COLUMNS)) if pictures else range(0)
    columns = len(shown) + bool(references)
    curves = [name for name in solution.history if name not in ("gradient_norm", "control_norm")]
    curves = ["loss"] if len(curves) <= 2 else curves
    curves += ["control_norm" if bool((solution.history["control_norm"] > 0).any()) else "gradient_norm"]

    cell = 1.7
    width = max(7.0, cell * columns + 0.9)
    top = 2 * cell + 0.75 if pictures else 0.0
    figure = figures.Figure(figsize=(width, top + 2.7), layout="constrained", facecolor="white")
    upper, lower = figure.subfigures(2, 1, height_ratios=(top, 2.7)) if pictures else (None, figure)
    if upper is not None:
        axes = upper.subplots(2, columns, squeeze=False)
        for i, column in enumerate(range(bool(references), columns)):
            _show(axes[0][column], solution.unguided[i], _title(solution, i), _PALETTE[i])
            _show(axes[1][column], solution.images[i], f"loss {solution.loss[i].item():.3g}", _PALETTE[i])
        first = int(bool(references))
        for row, label in enumerate(("unguided", "guided")):
            axes[row][first].set_ylabel(label, color=_INK, fontsize=10, fontweight="bold")
        if references:
            _show(axes[0][0], references[0], "reference")
            axes[1][0].set_axis_off()
    for axis, name in zip(lower.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        _curve(axis, solution, name, legend=name == "loss" and not pictures)
    return figure


def _title(solution: "Solution", i: int) -> str:
    prompt = solution.prompts[i]
    prompt = prompt if len(prompt) <= 18 else prompt[:17].rstrip() + "…"
    return f"{prompt}\nseed {solution.seeds[i]}" if prompt else f"seed {solution.seeds[i]}"


def _show(axis: Any, picture: Tensor, title: str, colour: str = _INK) -> None:
    axis.imshow(picture.detach().float().cpu().clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set_title(title, fontsize=8.5, color=colour)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _curve(axis: Any, solution: "Solution", name: str, *, legend: bool) -> None:
    values = solution.history[name].double().numpy()
    for i in range(values.shape[1]):
        axis.plot(values[:, i], color=_PALETTE[i % len(_PALETTE)], linewidth=1.6, label=f"seed {solution.seeds[i]}")
        kept = int(solution.kept.iteration[i])
        if name == "loss":
            axis.plot(kept, values[kept, i], "o", color=_PALETTE[i % len(_PALETTE)], markersize=5)
    axis.set_title(name.replace("_", " "), fontsize=10, color=_INK, loc="left")
    axis.set_xlabel("iteration", fontsize=8.5, color=_INK)
    axis.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8, colors=_INK, length=0)
    axis.xaxis.get_major_locator().set_params(integer=True)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color("#b8bdc4")
    if legend and 1 < values.shape[1] <= len(_PALETTE):
        axis.legend(frameon=False, fontsize=7.5, labelcolor=_INK)
