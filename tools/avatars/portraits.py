"""Draws the bundled reference portraits: people that no network of this world was trained on.

python tools/avatars/portraits.py
"""

from __future__ import annotations

import random

import numpy
from PIL import Image

import labels
import render
import world
from common import HERE, WEIGHTS

FOLDER = WEIGHTS.parent / "portraits"
LAYOUTS = HERE.parents[1] / "tests" / "samplers" / "avatars-layouts.png"
# hair, hair colour, skin, beard, rear hair of `world.IDENTITIES`
PEOPLE = {
    "ada": ("undercut", "b3271e", "a36b4f", None, "longWavy"),
    "ben": ("spiky", "b9b9c0", "a36b4f", "fullBeard", "neckHigh"),
    "cleo": ("spiky", "d6b370", "f7d9c9", None, "shoulderHigh"),
    "dan": ("spiky", "2c1b18", "f7d9c9", "longBeard", "longStraight"),
    "eve": ("sideComed", "2c1b18", "f7d9c9", None, "longStraight"),
    "finn": ("undercut", "b9b9c0", "5c3829", None, "shoulderHigh"),
    "gus": ("undercut", "e8c65a", "f7d9c9", "longBeard", None),
    "hana": ("bun", "2c1b18", "f7d9c9", None, None),
}


def portrait(name: str) -> world.Portrait:
    """Everything about a bundled portrait."""
    index = world.IDENTITIES.index(PEOPLE[name])
    assert world.identity_split(index) == "heldout", f"{name} has been trained on"
    return world.sample_portrait(random.Random(f"guideflow portrait {name}"), index, heldout_prompt=True)


def main() -> None:
    """Write one PNG per person, and for the tests one of all their layouts, side by side, as class numbers."""
    FOLDER.mkdir(exist_ok=True)
    for name in PEOPLE:
        Image.fromarray(render.draw(portrait(name))).save(FOLDER / f"{name}.png", optimize=True)
    maps = numpy.concatenate([labels.draw(portrait(name)) for name in sorted(PEOPLE)], axis=1)
    Image.fromarray(maps).save(LAYOUTS, optimize=True)


if __name__ == "__main__":
    main()
