"""Guides portraits to the style of paintings: how far the palette comes over, and what it costs the prompt.

    python benchmarks/styles.py            # benchmarks/results/styles.{json,md,png}

Six paintings, each with two prompts that leave colours free and two that name them: 24 cases. Networks of
`guideflow_avatars.judges`, which no loss uses, say how near the styles are and what became of the prompts.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

import torch
from avatars import DEVICE, draw_labelled, load_sampler, machine
from torch import Tensor

import guideflow as gf
from guideflow_avatars import avatars_style, judges
from guideflow_avatars.identity import SIZE

RESULTS = Path(__file__).parent / "results"
PALETTES = {
    "waves": ("0b2c5e", "1b5fa8", "8ecae6", "f4f4f0", "8ecae6"),
    "embers": ("2b0d0a", "8c1c13", "e2571e", "f6b26b", "b11f1f"),
    "meadow": ("14532d", "3f9142", "95d5a2", "ffe873", "6bbf59"),
    "blossom": ("ffffff", "ffb3cf", "ec4899", "ffd9e8", "bfa2ea"),
    "sand": ("f7e7c6", "e0b87a", "b97a3f", "fff6e0", "7a4a22"),
    "dusk": ("1d1d2b", "5b2a86", "bfa2ea", "8ecae6", "731ac3"),
}
PROMPTS = {
    "free": ("a smiling person in a shirt", "a sad person with a dress"),
    "named": ("a person with a grey turtleneck, yellow background", "a person in a red t-shirt, green background"),
}
ATTRIBUTES = {"free": ("clothes",), "named": ("clothes", "colour", "background")}
SOLVER, SCALE, ITERATIONS = "flowgrad", 1.5, 15


def painting(colours: tuple[str, ...], size: int = SIZE) -> Tensor:
    """Wavy bands of the colours, (1, 3, size, size) in [0, 1]."""
    rgb = torch.tensor([list(bytes.fromhex(colour)) for colour in colours]) / 255
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    height = 9 * y + 0.7 * torch.sin(7 * x + 4 * y) + 0.3 * torch.sin(17 * x - 9 * y)
    band, share = height.floor().long(), (4 * (height % 1) - 3).clamp(0, 1)[..., None]
    return torch.lerp(rgb[band % len(rgb)], rgb[(band + 1) % len(rgb)], share).permute(2, 0, 1)[None]


def solve(reference: Tensor, solver: str, scale: float, iterations: int) -> gf.Solution:
    """All prompts with one painting, each from its own noise."""
    prompts = [prompt for group in PROMPTS.values() for prompt in group]
    return gf.solve(
        load_sampler("avatars-perflow"),
        avatars_style(reference, device=DEVICE),
        prompt=prompts,
        seed=range(len(prompts)),
        solver=gf.load_solver(solver, scale=scale),
        max_iterations=iterations,
    )


def measure(solution: gf.Solution, reference: Tensor) -> dict[str, list[float]]:
    """Each number before and after, one per case; nan where a prompt does not ask for it."""
    prompts, named = solution.prompts, len(PROMPTS["free"])
    found = {"guide": (solution.history["loss"][0].cpu(), solution.loss.cpu())}
    pictures = (solution.unguided.cpu(), solution.images.cpu())
    found["judge"] = tuple(judges.style_distance(x, reference) for x in pictures)
    rows = {"free": slice(None, named), "named": slice(named, None)}
    for group, attributes in ATTRIBUTES.items():
        found[f"judge, {group}"] = tuple(judges.style_distance(x[rows[group]], reference) for x in pictures)
        for key in attributes:
            found[f"{key}, {group}"] = tuple(
                judges.prompt_accuracy(x[rows[group]], prompts[rows[group]], (key,)) for x in pictures
            )
    return {
        f"{name} {when}": value.tolist()
        for name, pair in found.items()
        for when, value in zip(("before", "after"), pair, strict=True)
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solver", default=SOLVER)
    parser.add_argument("--scale", type=float, default=SCALE)
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    options = parser.parse_args()
    rows: dict[str, dict[str, list[float]]] = {}
    sheet: list[list[Tensor]] = []
    for name, colours in PALETTES.items():
        reference = painting(colours)
        solution = solve(reference, options.solver, options.scale, options.iterations)
        rows[name] = measure(solution, reference)
        pictures = solution.unguided.cpu(), solution.images.cpu()
        sheet.append([reference[0], *(x[i] for i in range(4) for x in pictures)])
        print(name, {key: round(sum(values) / len(values), 3) for key, values in rows[name].items()}, flush=True)
    RESULTS.mkdir(exist_ok=True)
    report = {**vars(options), "date": str(datetime.date.today()), "machine": machine(), "rows": rows}
    (RESULTS / "styles.json").write_text(json.dumps(report, indent=1) + "\n")
    draw_labelled(RESULTS / "styles.png", sheet, ["painting", *["unguided", "guided"] * 4], list(PALETTES))
    text = table(rows)
    (RESULTS / "styles.md").write_text(text)
    print(text)


def table(rows: dict[str, dict[str, list[float]]]) -> str:
    """A line for each painting and their mean."""

    def cell(keys: list[str], key: str) -> str:
        before, after = (
            torch.tensor([rows[k][f"{key} {when}"] for k in keys]).mean().item() for when in ("before", "after")
        )
        return f"{before:.2f} → {after:.2f}"

    columns = {
        "style distance, loss": "guide",
        "style distance, judge": "judge",
        "judge, colours free": "judge, free",
        "judge, colours named": "judge, named",
        "clothes as asked, free": "clothes, free",
        "clothes as asked, named": "clothes, named",
        "their colour": "colour, named",
        "background": "background, named",
    }
    lines = ["| painting | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, keys in [*((name, [name]) for name in rows), ("mean", list(rows))]:
        lines.append(f"| {name} | " + " | ".join(cell(keys, key) for key in columns.values()) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
