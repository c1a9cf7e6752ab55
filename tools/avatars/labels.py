"""Draws the segmentation maps of the portraits of render.py: what every pixel of a picture is a part of.

    python tools/avatars/labels.py              # tools/avatars/data/labels-{train,heldout}.npz

The renderer draws a portrait from parts, so it knows. A second style is made of the first, in which every part has the
flat colour of its class and no shading; drawn large without soft edges, each pixel of a picture gets the class that
most of it belongs to. Rows are those of `train.npz` and `heldout.npz`.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
from pathlib import Path

import numpy
import torch
from torch import Tensor

import render
import world
from common import DATA
from guideflow_avatars.segmentation import PALETTE
from guideflow_avatars.segmentation import draw as in_colours

NAMES = tuple(PALETTE)
CLASS_OF = {
    "rearHair": "hair",
    "body": "skin",
    "head": "skin",
    "clothes": "clothes",
    "mouth": "features",
    "beard": "beard",
    "eyes": "features",
    "eyebrows": "features",
    "hair": "hair",
}
LARGER = 4


def _flat(element: object, colour: str) -> object:
    """An element of the style in one colour. Its shades (black, one fifth opaque) are left out, so what they shade, the
    nose and the ears among it, is what it is drawn on; in a mask colours do not matter."""
    if isinstance(element, list):
        return [_flat(one, colour) for one in element if not _is_shade(one)]
    if not isinstance(element, dict):
        return element
    flat = {key: _flat(value, colour) for key, value in element.items()}
    for key in ("fill", "stroke"):
        if key in flat:
            flat[key] = colour
    flat.pop("fill-opacity", None)
    return flat


def _is_shade(element: object) -> bool:
    attributes = element.get("attributes", {}) if isinstance(element, dict) else {}
    return attributes.get("fill") == "black" and attributes.get("fill-opacity") == ".2"


@functools.cache
def _style():
    import dicebear

    style = json.loads(render.style_text())
    style["attributes"]["shape-rendering"] = "crispEdges"
    for part, component in style["components"].items():
        component["variants"] = _flat(component["variants"], PALETTE[CLASS_OF[part]])
    return dicebear.Style(style)


def draw(portrait: world.Portrait, size: int = render.SIZE) -> numpy.ndarray:
    """Class numbers of one portrait, uint8 (size, size)."""
    picture = render.draw(portrait, LARGER * size, _style(), background=PALETTE["background"])
    colours = numpy.array([tuple(bytes.fromhex(colour[1:])) for colour in PALETTE.values()], dtype=numpy.int32)
    distance = ((picture[..., None, :].astype(numpy.int32) - colours) ** 2).sum(-1)
    votes = numpy.eye(len(NAMES), dtype=numpy.int32)[distance.argmin(-1)]
    return votes.reshape(size, LARGER, size, LARGER, -1).sum((1, 3)).argmax(-1).astype(numpy.uint8)


def load_labels(name: str) -> Tensor:
    """Maps of the first portraits of a data set, uint8 (N, 64, 64)."""
    path = DATA / f"labels-{name}.npz"
    if not path.exists():
        raise SystemExit(f"{path} is missing: run `python tools/avatars/labels.py` first.")
    with numpy.load(path) as file:
        return torch.from_numpy(file["labels"])


def write(name: str, planned: int, count: int, processes: int) -> Path:
    """Draw the maps of the first `count` portraits of a data set of `planned`."""
    portraits = render.plan(name, planned)[:count]
    with multiprocessing.Pool(processes) as pool:
        labels = numpy.stack(pool.map(draw, portraits, chunksize=64))
    path = DATA / f"labels-{name}.npz"
    numpy.savez_compressed(path, labels=labels)
    return path


def sheet(path: Path, count: int = 16) -> None:
    """Held-out portraits, their maps, and both laid over each other: look at it."""
    from torchvision.utils import save_image

    from common import as_float, load_data

    rows = torch.arange(0, 6 * count, 6)
    pictures = as_float(load_data("heldout")["images"][rows])
    maps = in_colours(load_labels("heldout")[rows])
    save_image(
        torch.cat([pictures, maps, (pictures + maps) / 2]).repeat_interleave(2, 2).repeat_interleave(2, 3),
        path,
        nrow=count,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=10_000, help="maps of training portraits, of 24,000")
    parser.add_argument("--heldout", type=int, default=3_000, help="maps of held-out portraits, of 3,000")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    for name in ("heldout", "train"):
        print(write(name, render.COUNTS[name], getattr(options, name), options.processes))
    sheet(DATA / "labels.png")


if __name__ == "__main__":
    main()
