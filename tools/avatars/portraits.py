"""Draws the bundled reference portraits: people that no network of this world was trained on.

python tools/avatars/portraits.py
"""

from __future__ import annotations

import random

from PIL import Image

import render
import world
from common import WEIGHTS

FOLDER = WEIGHTS.parent / "portraits"
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


def main() -> None:
    """Write one PNG per person."""
    FOLDER.mkdir(exist_ok=True)
    for name, identity in PEOPLE.items():
        index = world.IDENTITIES.index(identity)
        assert world.identity_split(index) == "heldout", f"{name} has been trained on"
        portrait = world.sample_portrait(random.Random(f"guideflow portrait {name}"), index, heldout_prompt=True)
        Image.fromarray(render.draw(portrait)).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
