"""Prompts that generators are measured by: plain ones of combinations never trained on, and what people would type."""

from __future__ import annotations

import random

import captions
import world

MAIN = ("clothes", "colour", "background")  # attributes whose combinations are held out

TYPED: tuple[tuple[str, dict[str, str]], ...] = (
    ("a happy guy with a red t-shirt", {"expression": "smiling", "colour": "red", "clothes": "t-shirt"}),
    ("sad woman, blue background", {"expression": "sad", "background": "blue"}),
    (
        "girl with long blonde hair wearing a pink dress",
        {"rear hair": "long straight", "hair colour": "blond", "colour": "pink", "clothes": "dress"},
    ),
    ("old man with a beard", {"beard": "full beard"}),
    ("portrait of an angry boss in a white shirt", {"expression": "angry", "colour": "white", "clothes": "shirt"}),
    ("surprised kid, yellow background", {"expression": "surprised", "background": "yellow"}),
    (
        "A smiling woman with brown hair and a green sweater",
        {"expression": "smiling", "hair colour": "brown", "colour": "green", "clothes": "turtleneck"},
    ),
    ("man with a moustache and a black jacket", {"beard": "moustache", "colour": "black", "clothes": "jacket"}),
    ("pale girl with red hair, grey background", {"hair colour": "red", "background": "grey"}),
    (
        "laughing man with dark skin and an orange t-shirt",
        {"expression": "laughing", "skin": "dark", "colour": "orange", "clothes": "t-shirt"},
    ),
    ("woman with her hair in a bun, purple dress", {"hair": "bun", "colour": "purple", "clothes": "dress"}),
    ("guy with spiky black hair", {"hair": "spiky", "hair colour": "black"}),
    ("someone shocked in front of a green wall", {"expression": "surprised", "background": "green"}),
    ("my friend with one eye closed, white background", {"eyes": "winking", "background": "white"}),
    (
        "a person with closed eyes, wearing a blue shirt",
        {"eyes": "closed", "colour": "blue", "clothes": "shirt"},
    ),
    (
        "ginger hair, full beard, smiling",
        {"hair colour": "ginger", "beard": "full beard", "expression": "smiling"},
    ),
    ("a furious lady in a black turtleneck", {"expression": "angry", "colour": "black", "clothes": "turtleneck"}),
    (
        "profile picture of a cheerful man in a grey jacket, orange backdrop",
        {"expression": "smiling", "colour": "grey", "clothes": "jacket", "background": "orange"},
    ),
    (
        "young woman, long wavy brown hair, white t-shirt",
        {"rear hair": "long wavy", "hair colour": "brown", "colour": "white", "clothes": "t-shirt"},
    ),
    ("man with no beard in a yellow shirt", {"beard": "none", "colour": "yellow", "clothes": "shirt"}),
    (
        "sad boy with blond hair, purple background",
        {"expression": "sad", "hair colour": "blond", "background": "purple"},
    ),
    (
        "a woman with tanned skin wearing a red dress on a white background",
        {"skin": "tan", "colour": "red", "clothes": "dress", "background": "white"},
    ),
    ("avatar of a guy with an undercut and a goatee", {"hair": "undercut", "beard": "goatee"}),
    (
        "grinning girl with shoulder-length black hair",
        {"expression": "smiling", "rear hair": "shoulder-length", "hair colour": "black"},
    ),
    (
        "blue shirt, pink background, angry",
        {"colour": "blue", "clothes": "shirt", "background": "pink", "expression": "angry"},
    ),
    ("a gloomy man in a green coat", {"expression": "sad", "colour": "green", "clothes": "jacket"}),
    (
        "face of a laughing woman, yellow t-shirt, blue background",
        {"expression": "laughing", "colour": "yellow", "clothes": "t-shirt", "background": "blue"},
    ),
    ("an old wizard with a long beard", {"beard": "long beard"}),
    (
        "person with short grey hair and a purple sweater",
        {"rear hair": "short", "hair colour": "grey", "colour": "purple", "clothes": "turtleneck"},
    ),
    (
        "excited girl in a pink t-shirt, green background",
        {"expression": "laughing", "colour": "pink", "clothes": "t-shirt", "background": "green"},
    ),
    (
        "a doctor with a white jacket smiling at the camera",
        {"colour": "white", "clothes": "jacket", "expression": "smiling"},
    ),
    (
        "man with sunglasses and a black t-shirt, grey background",
        {"colour": "black", "clothes": "t-shirt", "background": "grey"},
    ),
    ("brown-skinned woman, orange dress", {"skin": "brown", "colour": "orange", "clothes": "dress"}),
    ("unhappy person in a purple jacket", {"expression": "sad", "colour": "purple", "clothes": "jacket"}),
    (
        "amazed man with a chin beard, pink background",
        {"expression": "surprised", "beard": "chin beard", "background": "pink"},
    ),
    (
        "cartoon of a woman with a bun and open eyes, blue dress",
        {"hair": "bun", "eyes": "open", "colour": "blue", "clothes": "dress"},
    ),
    (
        "friendly teacher with side-parted hair and a blue shirt",
        {"expression": "smiling", "hair": "side-parted", "colour": "blue", "clothes": "shirt"},
    ),
    ("a grumpy scientist with wild grey hair", {"expression": "angry", "hair": "spiky", "hair colour": "grey"}),
    (
        "light skin, black hair, red turtleneck, white background",
        {"skin": "light", "hair colour": "black", "colour": "red", "clothes": "turtleneck", "background": "white"},
    ),
    (
        "Man with golden hair, green t-shirt, yellow wall behind him, looking sad",
        {"hair colour": "blond", "colour": "green", "clothes": "t-shirt", "background": "yellow", "expression": "sad"},
    ),
)
"""Prompts as people write them, each with what a picture of this world can show of it."""

UNKNOWN = (
    "with an umbrella", "in Tokyo", "at the dentist", "who loves chess", "riding a horse", "made of clay", "8k uhd",
    "on the moon", "award winning", "with a parrot", "at sunset", "for my grandmother", "eating soup", "in a hurry",
)  # fmt: skip
"""Words that mean nothing here and are in no training caption."""


def held_out(count: int) -> list[tuple[str, dict[str, str]]]:
    """Plain captions of combinations never trained on, and what they ask for."""
    rng = random.Random("guideflow evaluation")
    portraits = [world.sample_portrait(rng, 0, heldout_prompt=True) for _ in range(count)]
    return [(captions.plain(p), {key: p.words[key] for key in (*MAIN, "expression")}) for p in portraits]


def with_unknown(asked: list[tuple[str, dict[str, str]]]) -> list[tuple[str, dict[str, str]]]:
    """The same prompts with words that mean nothing here."""
    return [(f"{text}, {UNKNOWN[i % len(UNKNOWN)]}", words) for i, (text, words) in enumerate(asked)]
