"""What a portrait of the avatars world is made of: attributes, identities and the held-out parts.

How people write about them is in captions.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random

from guideflow_avatars.words import WORDS

HAIR = ("bun", "sideComed", "spiky", "undercut")
HAIR_COLOURS = ("2c1b18", "d6b370", "724133", "a55728", "e8c65a", "b9b9c0", "b3271e")
SKIN = ("5c3829", "f1c3a5", "a36b4f", "c68e7a", "f7d9c9")
BEARD = (None, "chin", "chinMoustache", "fullBeard", "longBeard", "moustacheTwirl")
REAR_HAIR = (None, "longStraight", "longWavy", "neckHigh", "shoulderHigh")

# word -> variant or colour of the renderer
CLOTHES = {"dress": "dress", "jacket": "openJacket", "shirt": "shirt", "t-shirt": "tShirt", "turtleneck": "turtleNeck"}
COLOURS = {
    "black": "151613",
    "blue": "0b3286",
    "grey": "707070",
    "green": "147f3c",
    "orange": "f97316",
    "pink": "ec4899",
    "purple": "731ac3",
    "red": "b11f1f",
    "white": "f4f4f0",
    "yellow": "eab308",
}
BACKGROUNDS = {
    "blue": "8ecae6",
    "green": "95d5a2",
    "grey": "c3c7cc",
    "orange": "f6b26b",
    "pink": "ffb3cf",
    "purple": "bfa2ea",
    "white": "ffffff",
    "yellow": "ffe873",
}
EXPRESSIONS = {"smiling": "smile", "laughing": "laugh", "surprised": "agape", "sad": "sad", "angry": "angry"}
EYES = ("bow", "happy", "humble", "wide", "wink")
EYEBROWS = ("angry", "happy", "neutral", "raised", "sad")

IDENTITIES = tuple(itertools.product(HAIR, HAIR_COLOURS, SKIN, BEARD, REAR_HAIR))
LABELS = {name: tuple(words) for name, words in WORDS.items()}  # what the classifier reads off a picture
_EYES = {"wide": "open", "wink": "winking"}


def _bucket(*parts: object, buckets: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") % buckets


def identity_split(identity: int) -> str:
    """'guidance' or 'evaluation' (40 % each): whom the two recognisers train on; 'heldout' (20 %): nobody does."""
    return ("heldout", "guidance", "guidance", "evaluation", "evaluation")[_bucket("identity", identity, buckets=5)]


def is_heldout_prompt(clothes: str, colour: str, background: str) -> bool:
    """One in ten combinations of clothes, colour and background is never trained on."""
    return _bucket("prompt", clothes, colour, background, buckets=10) == 0


IDENTITIES_OF = {
    split: tuple(i for i in range(len(IDENTITIES)) if identity_split(i) == split)
    for split in ("heldout", "guidance", "evaluation")
}
PROMPTS_OF = {
    heldout: tuple(p for p in itertools.product(CLOTHES, COLOURS, BACKGROUNDS) if is_heldout_prompt(*p) == heldout)
    for heldout in (False, True)
}


@dataclasses.dataclass(frozen=True)
class Portrait:
    """Every choice behind one picture. `identity` indexes `IDENTITIES`; words index the palettes above."""

    identity: int
    background: str
    colour: str
    clothes: str
    expression: str
    eyes: str
    eyebrows: str
    flip: bool
    rotate: float  # degrees
    scale: float
    translate: tuple[float, float]  # per cent of the width and height

    @property
    def words(self) -> dict[str, str]:
        """The word of each attribute of `LABELS`."""
        hair, hair_colour, skin, beard, rear_hair = IDENTITIES[self.identity]
        return {
            "background": self.background,
            "colour": self.colour,
            "clothes": self.clothes,
            "expression": self.expression,
            "hair": LABELS["hair"][HAIR.index(hair)],
            "hair colour": LABELS["hair colour"][HAIR_COLOURS.index(hair_colour)],
            "rear hair": LABELS["rear hair"][REAR_HAIR.index(rear_hair)],
            "skin": LABELS["skin"][SKIN.index(skin)],
            "beard": LABELS["beard"][BEARD.index(beard)],
            "eyes": _EYES.get(self.eyes, "closed"),
        }

    @property
    def labels(self) -> dict[str, int]:
        """Index of each attribute of `LABELS`."""
        return {name: LABELS[name].index(word) for name, word in self.words.items()}


def sample_portrait(rng: random.Random, identity: int, *, heldout_prompt: bool = False) -> Portrait:
    """Draw everything that is not identity at random. The head fills more than half of the frame's height."""
    clothes, colour, background = rng.choice(PROMPTS_OF[heldout_prompt])
    return Portrait(
        identity=identity,
        background=background,
        colour=colour,
        clothes=clothes,
        expression=rng.choice(tuple(EXPRESSIONS)),
        eyes=rng.choice(EYES),
        eyebrows=rng.choice(EYEBROWS),
        flip=rng.random() < 0.5,
        rotate=rng.uniform(-6, 6),
        scale=rng.uniform(1.02, 1.16),
        translate=(rng.uniform(-3, 3), rng.uniform(-1, 3)),
    )
