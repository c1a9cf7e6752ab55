"""Draws portraits in the toon-head style and writes the data sets that every network of this world trains on.

    python tools/avatars/render.py              # tools/avatars/data/{train,heldout}/

Toon-head by Johan Melin (CC BY 4.0), drawn with DiceBear and resvg.
"""

from __future__ import annotations

import argparse
import functools
import importlib.resources
import io
import json
import multiprocessing
import os
import random
from pathlib import Path

import numpy
from PIL import Image

import captions
import world

SIZE = 128
DATA = Path(os.environ.get("AVATARS_DATA", Path(__file__).parent / "data"))
COUNTS = {"train": 40_000, "heldout": 3_000}


def style_text() -> str:
    """Definition of the style, JSON."""
    return importlib.resources.files("dicebear_styles").joinpath("toon-head.json").read_text("utf-8")


@functools.cache
def _style():
    import dicebear

    return dicebear.Style(json.loads(style_text()))


def draw(portrait: world.Portrait, size: int = SIZE, style=None, background: str | None = None) -> numpy.ndarray:
    """One portrait as uint8 RGB, (size, size, 3); in another style or before another background if given."""
    import dicebear
    import resvg_py

    hair, hair_colour, skin, beard, rear_hair = world.IDENTITIES[portrait.identity]
    options = {
        "seed": "guideflow",
        "size": size,
        "hairVariant": hair,
        "hairColor": hair_colour,
        "skinColor": skin,
        "beardProbability": 100 if beard else 0,
        "rearHairProbability": 100 if rear_hair else 0,
        "clothesVariant": world.CLOTHES[portrait.clothes],
        "clothesColor": world.COLOURS[portrait.colour],
        "mouthVariant": world.EXPRESSIONS[portrait.expression],
        "eyesVariant": portrait.eyes,
        "eyebrowsVariant": portrait.eyebrows,
        "backgroundColor": background or world.BACKGROUNDS[portrait.background],
        "flip": "horizontal" if portrait.flip else "none",
        "rotate": portrait.rotate,
        "scale": portrait.scale,
        "translateX": portrait.translate[0],
        "translateY": portrait.translate[1],
    }
    if beard:
        options["beardVariant"] = beard
    if rear_hair:
        options["rearHairVariant"] = rear_hair
    svg = dicebear.Avatar(style or _style(), options).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    return numpy.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))


def plan(name: str, count: int) -> list[world.Portrait]:
    """Portraits of a data set, the same every time. Those of "train" do not depend on how many there are."""
    rng = random.Random(f"guideflow avatars {name}")
    if name == "train":
        identities = world.IDENTITIES_OF["guidance"] + world.IDENTITIES_OF["evaluation"]
        return [world.sample_portrait(rng, identities[i % len(identities)]) for i in range(count)]
    chosen = rng.sample(world.IDENTITIES_OF["heldout"], count // 6)
    return [world.sample_portrait(rng, chosen[i // 6], heldout_prompt=True) for i in range(len(chosen) * 6)]


def write_labels(name: str, portraits: list[world.Portrait]) -> Path:
    """Begin the folder of a data set: labels.npz (identity, `world.LABELS`), captions.txt (plain ones)."""
    folder = DATA / name
    folder.mkdir(parents=True, exist_ok=True)
    labels = {key: numpy.array([p.labels[key] for p in portraits]) for key in world.LABELS}
    numpy.savez(folder / "labels.npz", identity=numpy.array([p.identity for p in portraits]), **labels)
    (folder / "captions.txt").write_text("\n".join(map(captions.plain, portraits)) + "\n", "utf-8")
    return folder


def write(name: str, count: int, processes: int) -> Path:
    """Render a data set into a folder: its labels, and images.npy."""
    portraits = plan(name, count)
    folder = write_labels(name, portraits)
    images = numpy.lib.format.open_memmap(
        folder / "images.tmp.npy", mode="w+", dtype=numpy.uint8, shape=(len(portraits), SIZE, SIZE, 3)
    )
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for i, image in enumerate(pool.imap(draw, portraits, chunksize=64)):
            images[i] = image
    images.flush()
    (folder / "images.tmp.npy").replace(folder / "images.npy")
    return folder


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--train", type=int, default=COUNTS["train"], help="portraits of identities that networks may train on"
    )
    parser.add_argument(
        "--heldout", type=int, default=COUNTS["heldout"], help="portraits of identities and prompts never trained on"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
    options = parser.parse_args()
    for name in ("heldout", "train"):
        if not (DATA / name / "images.npy").exists():
            print(write(name, getattr(options, name), options.processes), flush=True)


if __name__ == "__main__":
    main()
