"""Restores held-out portraits from what is left of them: super-resolution, inpainting, deblurring, colouring.

    python tools/avatars/render.py --train 0     # held-out renders, once
    python benchmarks/restore.py run             # goes on where it was interrupted; --people 4 for a quick look
    python benchmarks/restore.py table           # benchmarks/results/restore.md, and the table of the tutorial

Each portrait is of a person whom no network was trained on, under the prompt that it was rendered by. Restored pictures
are compared with the true one, and with what one has without a generator: the small picture enlarged by bicubic
interpolation, the hole filled with the mean colour, the blurred or grey picture as it is.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from avatars import CACHE, HERE, RESULTS, write_between
from torch import Tensor
from torch.nn import functional as F

import guideflow as gf
from guideflow_avatars import judges
from guideflow_measurement import Blur, Downscale, Greyscale, Mask

sys.path.insert(0, str(HERE.parent / "tools" / "avatars"))
PAGE = HERE.parent / "docs" / "tutorials" / "restore-a-picture.md"
SAMPLER, ITERATIONS, PEOPLE, BATCH = "avatars-perflow", 30, 8, 4
HOLE = (slice(40, 88), slice(40, 88))  # rows and columns: most of the face


def hole(size: int = 128) -> Tensor:
    """The mask, (size, size): 0 where the picture is hidden."""
    seen = torch.ones(size, size)
    seen[HOLE] = 0
    return seen


def filled(y: Tensor) -> Tensor:
    """The hidden part in the mean colour of what is seen."""
    seen = hole()
    mean = y.sum((2, 3), keepdim=True) / seen.sum()
    return torch.where(seen > 0, y, mean)


class Task(NamedTuple):
    """What happened to the pictures, what it is called, and what one has without a generator."""

    title: str
    operator: Callable[[Tensor], Tensor]
    plain: Callable[[Tensor], Tensor]


TASKS = {
    "downscale": Task("4x super-resolution", Downscale(4), lambda y: F.interpolate(y, scale_factor=4, mode="bicubic")),
    "mask": Task("a hole of 48x48 in the face", Mask(hole()), filled),
    "blur": Task("blur, 3 pixels", Blur(3.0), lambda y: y),
    "greyscale": Task("without colours", Greyscale(), lambda y: y.expand(-1, 3, -1, -1)),
}
ROWS = {"plain": "without a generator", "unguided": "prompt alone", "restored": "restored"}


class Paired(gf.Loss):
    """`measurement` with one observation for each image."""

    name = "measurement"

    def __init__(self, operator: Callable[[Tensor], Tensor], observed: Tensor) -> None:
        """Take what was observed, (B, ...)."""
        self._operator, self._observed = operator, observed

    def __call__(self, image: Tensor) -> Tensor:
        """Return half the mean squared difference of each."""
        return (self._operator(image) - self._observed).square().flatten(1).mean(1) / 2


def cases(people: int) -> tuple[Tensor, list[str], list[int]]:
    """Portraits (N, 3, 128, 128) of different people, the prompts they were rendered by, and seeds."""
    from common import as_float, load_data

    data = load_data("heldout")
    identities: Any = data["identity"]
    everyone = list(dict.fromkeys(identities.tolist()))
    random.Random("guideflow benchmark restore").shuffle(everyone)
    rows = [int((identities == person).nonzero()[0, 0]) for person in everyone[:people]]
    images: Any = data["images"]
    return as_float(images[rows]), [str(data["captions"][i]) for i in rows], list(range(3000, 3000 + len(rows)))


def solved(task: str, people: int) -> dict[str, Tensor]:
    """Unguided and restored pictures of a task, remembered on disk."""
    path = CACHE / f"restore-{task}{people}.pt"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        pictures, prompts, seeds = cases(people)
        sampler, found, operator = gf.load_sampler(SAMPLER), [], TASKS[task].operator
        for start in range(0, people, BATCH):
            rows = slice(start, start + BATCH)
            solution = gf.solve(
                sampler,
                Paired(operator, operator(pictures[rows])),
                prompt=prompts[rows],
                seed=seeds[rows],
                max_iterations=ITERATIONS,
            )
            found.append((solution.unguided, solution.images))
            print(f"{task} {min(start + BATCH, people)}/{people}", flush=True)
        unguided, restored = (torch.cat(each) for each in zip(*found, strict=True))
        torch.save({"unguided": unguided, "restored": restored}, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    return torch.load(path, weights_only=True)


def psnr(images: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, in dB."""
    return -10 * (images.clamp(0, 1) - true).square().mean((1, 2, 3)).log10()


def measure(images: Tensor, task: str, people: int) -> dict[str, float]:
    """Nearness to the true pictures, to the people on them, to the prompts and to what was observed."""
    true, prompts, _ = cases(people)
    operator = TASKS[task].operator
    return {
        "psnr": psnr(images, true).mean().item(),
        "hidden": psnr(images[(..., *HOLE)], true[(..., *HOLE)]).mean().item(),
        "judge": judges.identity_similarity(images.clamp(0, 1), true).mean().item(),
        "prompt": judges.prompt_accuracy(images.clamp(0, 1), prompts).mean().item(),
        "observed": (operator(images) - operator(true)).square().mean().sqrt().item(),
    }


def run(people: int) -> None:
    """Restore everything and write down how near it came."""
    report: dict[str, Any] = {"date": str(datetime.date.today()), "people": people, "iterations": ITERATIONS}
    report |= {"sampler": SAMPLER, "rows": {}}
    true, _, _ = cases(people)
    for name, task in TASKS.items():
        pictures = {"plain": task.plain(task.operator(true)), **solved(name, people)}
        report["rows"][name] = {row: measure(images, name, people) for row, images in pictures.items()}
        print(name, json.dumps(report["rows"][name]), flush=True)
    vae = gf.load_sampler(SAMPLER).parts.vae
    with torch.no_grad():
        decoded = vae.decode(vae.encode(true * 2 - 1).latent_dist.mode()).sample / 2 + 0.5
    report["autoencoder"] = psnr(decoded, true).mean().item()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "restore.json").write_text(json.dumps(report, indent=1) + "\n")


def table(people: int) -> None:
    """Write the table, and into the page of the docs."""
    report = json.loads((RESULTS / "restore.json").read_text())
    lines = ["| | picture | PSNR | in the hole | judge | prompt | error of what was observed |", "|" + "---|" * 7]
    for name, rows in report["rows"].items():
        for row, label in ROWS.items():
            found, title = rows[row], TASKS[name].title if row == "plain" else ""
            inside = f"{found['hidden']:.1f}" if name == "mask" else ""
            cells = [f"{found['psnr']:.1f}", inside, f"{found['judge']:.3f}", f"{found['prompt']:.2f}"]
            lines.append(f"| {title} | {label} | {' | '.join(cells)} | {found['observed']:.4f} |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "restore.md").write_text(text)
    print(text)
    caption = (
        f"Portraits of {report['people']} held-out people, each under its prompt and from one seed; "
        f"{report['iterations']} iterations of `auto` on `{report['sampler']}`. *PSNR* to the true picture in dB (its "
        f"way through the autoencoder alone leaves {report['autoencoder']:.1f}), *judge* the cosine to it by a "
        "recogniser that no loss uses, *prompt* the share of what it asks for that is there. Measured on a 2-core CPU, "
        f"{report['date']}, by `python benchmarks/restore.py run` and `table`."
    )
    write_between(PAGE, "restore", f"{caption}\n\n{text}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--people", type=int, default=PEOPLE)
    options = parser.parse_args()
    {"run": run, "table": table}[options.what](options.people)


if __name__ == "__main__":
    main()
