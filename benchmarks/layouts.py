"""Gives avatars the layouts of other portraits: 16 maps of held-out people, each with a held-out prompt and a seed.

    python benchmarks/layouts.py search      # 8 other layouts with several settings, to choose SETTING by
    python benchmarks/layouts.py run         # goes on where it was interrupted
    python benchmarks/layouts.py table       # benchmarks/results/layouts.md, and the table of the tutorial

How far a picture has the layout is told by the network that guides, and by another that does not: other architecture,
other training people, other seed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import sys
from pathlib import Path

import torch
from avatars import DEVICE, load_sampler, machine, write_between
from torch import Tensor
from torch.nn import functional as F

import guideflow as gf
from guideflow_avatars import avatars_segmentation, judges

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CACHE = HERE / "cache"
PAGE = HERE.parent / "docs" / "tutorials" / "draw-a-layout.md"
sys.path.insert(0, str(HERE.parent / "tools" / "avatars"))

SAMPLER = "avatars-perflow"
ITERATIONS = 40
CASES = {"run": 16, "search": 8}
SETTING = {"solver": "anchored", "scale": 1.0}
SEARCHED = [{"solver": solver, "scale": scale} for solver in ("anchored", "flowgrad") for scale in (0.5, 1.0, 2.0)]


class PairedLayouts(gf.Loss):
    """`avatars-segmentation` with one layout per image."""

    name = "layout"

    def __init__(self, layouts: Tensor) -> None:
        """Take the layouts, (B, 128, 128)."""
        self._network = avatars_segmentation(layouts[0], device=DEVICE)
        self._layouts = layouts.to(DEVICE)

    def __call__(self, image: Tensor) -> Tensor:
        """Return the mean cross-entropy of each picture to its own layout."""
        return F.cross_entropy(self._network.logits(image), self._layouts, reduction="none").mean((1, 2))


def cases(part: str) -> tuple[Tensor, Tensor, list[str], list[int]]:
    """Portraits (N, 3, 128, 128), their layouts (N, 128, 128), prompts and seeds; `search` shares nobody with `run`."""
    import captions
    import world
    from common import as_float, load_data
    from labels import load_labels

    data, labels = load_data("heldout"), load_labels("heldout")
    people = list(dict.fromkeys(data["identity"].tolist()))
    random.Random("guideflow benchmark layouts").shuffle(people)
    first = {"run": 0, "search": CASES["run"]}[part]
    rng = random.Random(f"guideflow benchmark layouts {part}")
    rows, prompts = [], []
    for person in people[first : first + CASES[part]]:
        rows.append((data["identity"] == person).nonzero()[0, 0])
        clothes, colour, background = rng.choice(world.PROMPTS_OF[True])
        prompts.append(f"a person in {captions.with_article(f'{colour} {clothes}')}, {background} background")
    chosen = torch.stack(rows)
    return as_float(data["images"][chosen]), labels[chosen].long(), prompts, list(range(2000, 2000 + len(rows)))


def solve(part: str, setting: dict) -> dict[str, Tensor]:
    """Unguided and guided pictures of all cases, remembered on disk."""
    path = CACHE / f"layouts-{part}{CASES[part]}-{'-'.join(map(str, setting.values()))}.pt"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        _, layouts, prompts, seeds = cases(part)
        sampler, found = load_sampler(SAMPLER), []
        solver = gf.load_solver(setting["solver"], scale=setting["scale"])
        for rows in torch.arange(len(seeds)).split(8):
            solution = gf.solve(
                sampler,
                PairedLayouts(layouts[rows]),
                prompt=[prompts[i] for i in rows],
                seed=[seeds[i] for i in rows],
                solver=solver,
                max_iterations=ITERATIONS,
                keep="last",
            )
            found.append((solution.unguided.cpu(), solution.images.cpu()))
            print(f"{part} {setting} {int(rows[-1]) + 1}/{len(seeds)}", flush=True)
        unguided, images = (torch.cat(pictures) for pictures in zip(*found, strict=True))
        torch.save({"unguided": unguided, "images": images}, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    return torch.load(path, weights_only=True)


def judge(images: Tensor, unguided: Tensor, part: str) -> dict[str, float]:
    """Mean IoU by both networks, prompt accuracy, and distance from the unguided pictures."""
    _, layouts, prompts, _ = cases(part)
    seen = avatars_segmentation(layouts[0]).segment(images)
    return {
        "judge": judges.layout_iou(images, layouts).mean().item(),
        "guidance": judges.mean_iou(seen, layouts).mean().item(),
        "prompt": judges.prompt_accuracy(images, prompts).mean().item(),
        "distance": (images - unguided).square().mean((1, 2, 3)).sqrt().mean().item(),
    }


def search() -> None:
    """Print the scores of several settings on layouts that are not in the table."""
    for setting in SEARCHED:
        found = solve("search", setting)
        print(json.dumps({**setting, **judge(found["images"], found["unguided"], "search")}), flush=True)


def run() -> None:
    """Solve every case and judge the pictures, unguided ones and the portraits themselves too."""
    found = solve("run", SETTING)
    portraits = cases("run")[0]
    pictures = {"unguided": found["unguided"], "guided": found["images"]}
    rows = [{"pictures": name, **judge(images, found["unguided"], "run")} for name, images in pictures.items()]
    itself = judge(portraits, portraits, "run")
    rows.append({"pictures": "the portraits", "judge": itself["judge"], "guidance": itself["guidance"]})
    report = {
        "date": str(datetime.date.today()),
        "machine": machine(),
        "sampler": SAMPLER,
        "setting": SETTING,
        "iterations": ITERATIONS,
        "layouts": CASES["run"],
        "rows": rows,
    }
    (RESULTS / "layouts.json").write_text(json.dumps(report, indent=1) + "\n")


def table() -> None:
    """Write the table into the page of the docs."""
    report = json.loads((RESULTS / "layouts.json").read_text())
    lines = ["| pictures | IoU, held-out judge | IoU, guiding network | prompt | distance |", "|---|---|---|---|---|"]
    for row in report["rows"]:
        numbers = " | ".join(
            f"{row[key]:.3f}" if key in row else "" for key in ("judge", "guidance", "prompt", "distance")
        )
        lines.append(f"| {row['pictures']} | {numbers} |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "layouts.md").write_text(text)
    print(text)
    sampler, solver, iterations = report["sampler"], report["setting"], report["iterations"]
    caption = (
        f"{report['layouts']} layouts of held-out people, each with a held-out prompt and a seed; {iterations} "
        f"iterations of `{solver['solver']}`, scale {solver['scale']:g}, on `{sampler}`; drawn on "
        f"{report['machine']}, {report['date']}, by `python benchmarks/layouts.py run` and `table`."
    )
    write_between(PAGE, "layouts", f"{caption}\n\n{text}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("search", "run", "table"))
    {"search": search, "run": run, "table": table}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
