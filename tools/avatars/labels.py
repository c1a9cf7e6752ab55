"""Draws the segmentation maps of the portraits of render.py: what every pixel of a picture is a part of.

    python tools/avatars/labels.py              # tools/avatars/data/{train,heldout}/maps.npy

The renderer draws a portrait from parts, so it knows. A second style is made of the first, in which every part has the
flat colour of its class and no shading; drawn large without soft edges, each pixel of a picture gets the class that
most of it belongs to. Rows are those of the pictures.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
from pathlib import Path

import numpy
import torch
from torch import Tensor

import render
import world
from common import DATA, DEVICE, as_float, load_data, save_sheet
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
COUNTS = {"heldout": 3_000, "train": 8_000}


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


@functools.cache
def _nearest() -> numpy.ndarray:
    """Number of the class of each colour, (32, 32, 32), by the upper five bits of red, green and blue."""
    colours = numpy.array([tuple(bytes.fromhex(colour[1:])) for colour in PALETTE.values()])
    grid = numpy.stack(numpy.meshgrid(*3 * [numpy.arange(32) * 8 + 4], indexing="ij"), axis=-1)
    return ((grid[..., None, :] - colours) ** 2).sum(-1).argmin(-1).astype(numpy.uint8)


def draw(portrait: world.Portrait, size: int = render.SIZE) -> numpy.ndarray:
    """Class numbers of one portrait, uint8 (size, size)."""
    picture = render.draw(portrait, LARGER * size, _style(), background=PALETTE["background"]) >> 3
    classes = _nearest()[picture[..., 0], picture[..., 1], picture[..., 2]].reshape(size, LARGER, size, LARGER)
    votes = [(classes == number).sum((1, 3), dtype=numpy.uint8) for number in range(len(NAMES))]
    return numpy.argmax(votes, axis=0).astype(numpy.uint8)


def load_labels(name: str) -> Tensor:
    """Maps of the first portraits of a data set, uint8 (N, 128, 128), on the device."""
    path = DATA / name / "maps.npy"
    if not path.exists():
        raise SystemExit(f"{path} is missing: run `python tools/avatars/labels.py` first.")
    return torch.from_numpy(numpy.load(path)).to(DEVICE)


def write(name: str, count: int, processes: int) -> Path:
    """Draw the maps of the first `count` portraits of a data set."""
    with numpy.load(DATA / name / "labels.npz") as labels:
        portraits = render.plan(name, len(labels["identity"]))[:count]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        maps = numpy.stack(list(pool.imap(draw, portraits, chunksize=32)))
    path = DATA / name / "maps.npy"
    numpy.save(path.with_suffix(".tmp.npy"), maps)
    path.with_suffix(".tmp.npy").replace(path)
    return path


def sheet(path: Path, count: int = 12) -> str:
    """Held-out portraits, their maps, and both laid over each other: look at it."""
    labels = load_labels("heldout")
    rows = torch.arange(len(labels), device=DEVICE)[::6][:count]
    pictures = as_float(load_data("heldout")["images"][rows]).cpu()
    maps = in_colours(labels[rows])
    return save_sheet(torch.cat([pictures, maps, (pictures + maps) / 2]), path, len(rows))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=COUNTS["train"], help="maps of training portraits, at most")
    parser.add_argument("--heldout", type=int, default=COUNTS["heldout"], help="maps of held-out portraits, at most")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
    options = parser.parse_args()
    for name in COUNTS:
        if getattr(options, name) and not (DATA / name / "maps.npy").exists():
            print(write(name, getattr(options, name), options.processes), flush=True)
    print(sheet(DATA / "sheets" / "labels.png"))


if __name__ == "__main__":
    main()
