"""How people write about portraits: plain captions, and wordings of every attribute in every order for training.

Prompts of ordinary people name what they care about, in their own words and order, and say much that a portrait here
cannot show. So training captions name a random part of the attributes by random synonyms, in sentences and in lists of
keywords, with words in between that mean nothing in this world.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import world
from guideflow_avatars.words import WORDS

NAMED = {  # how often a training caption names an attribute
    "background": 0.8,
    "colour": 0.8,
    "clothes": 0.85,
    "expression": 0.6,
    "hair": 0.3,
    "hair colour": 0.45,
    "rear hair": 0.3,
    "skin": 0.3,
    "beard": 0.4,
    "eyes": 0.2,
}
WHO = ("person",) * 3 + ("woman", "man", "girl", "boy", "guy", "lady", "human", "character", "someone", "face")
PREFIXES = ("portrait of", "a picture of", "avatar of", "a drawing of", "an illustration of", "photo of", "cartoon of")
BEFORE = (
    "young", "old", "beautiful", "cute", "handsome", "cool", "nice", "serious looking", "middle-aged", "famous", "tall",
    "strong", "smart", "pretty", "tired", "elegant", "casual", "professional", "mysterious", "stylish", "french",
    "american", "african", "asian", "european", "indian", "brave", "kind", "shy", "busy",
)  # fmt: skip
AFTER = (
    "highly detailed", "4k", "high quality", "digital art", "cartoon style", "flat design", "vector art",
    "best quality", "masterpiece", "looking at the camera", "front view", "close-up", "on a beach", "in paris",
    "in the city",
    "holding a cup of coffee", "at work", "with glasses", "wearing a hat", "in summer", "in the forest", "at night",
    "studio lighting", "soft light", "trending", "profile picture", "for a website", "with a dog", "playing guitar",
    "on holiday", "drinking tea", "reading a book", "in the rain", "at a party", "in a garden", "simple", "minimalist",
    "sharp focus", "centered", "no text", "next to a car", "in the kitchen", "as a doctor", "as a teacher", "in space",
    "in the snow", "by the sea", "with headphones", "with earrings", "with freckles",
)  # fmt: skip


def with_article(words: str) -> str:
    """Put "a" or "an" in front."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def plain(portrait: world.Portrait) -> str:
    """The caption by which prompts are measured: expression, clothes, their colour, background."""
    return (
        f"{with_article(portrait.expression)} person with {with_article(f'{portrait.colour} {portrait.clothes}')}, "
        f"{portrait.background} background"
    )


def varied(words: Mapping[str, str], rng: random.Random) -> tuple[str, tuple[str, ...]]:
    """One way of writing down some of the attributes; the text, and the attributes that it names."""
    named = {key for key, often in NAMED.items() if rng.random() < often}
    if words["beard"] == "none" and rng.random() < 0.7:
        named.discard("beard")
    if rng.random() < 0.15:  # people often name one thing or two
        named = set(rng.sample(sorted(named), min(len(named), rng.randint(1, 2))))
    said = {key: rng.choice(WORDS[key][words[key]]) for key in sorted(named)}
    text = _keywords(said, rng) if rng.random() < 0.25 else _sentence(said, rng)
    return text, tuple(said)


def _clothes(said: Mapping[str, str]) -> str:
    if "clothes" in said:
        return with_article(f"{said['colour']} {said['clothes']}" if "colour" in said else said["clothes"])
    return f"{said['colour']} clothes" if "colour" in said else ""


def _hair(said: Mapping[str, str], rng: random.Random) -> list[str]:
    """Phrases about hair: length and colour together, the cut by itself or with them."""
    length = said.get("rear hair", "")
    kind = " ".join(filter(None, (length, said.get("hair colour"))))
    cut = said.get("hair", "")
    if cut.endswith(" hair") and kind and cut.count(" ") == 1 and rng.random() < 0.7:  # short brown spiky hair
        return [f"{kind} {cut}"]
    return [phrase for phrase in (f"{kind} hair" if kind else "", cut) if phrase]


def _background(word: str, rng: random.Random) -> str:
    form = rng.choice(("{} background", "{} background", "on a {} background", "in front of a {} wall", "{} backdrop"))
    return form.format(word).replace("a orange", "an orange")


def _sentence(said: Mapping[str, str], rng: random.Random) -> str:
    adjectives = [said["expression"]] if "expression" in said and rng.random() < 0.75 else []
    late = "expression" in said and not adjectives
    if rng.random() < 0.25:
        adjectives.insert(rng.randint(0, len(adjectives)), rng.choice(BEFORE))
    parts = _hair(said, rng)
    if "skin" in said:
        if rng.random() < 0.5:
            adjectives.append(f"{said['skin']}-skinned")
        else:
            parts.append(f"{said['skin']} skin")
    parts += [said[key] for key in ("beard", "eyes") if key in said]
    rng.shuffle(parts)
    who = " ".join([*adjectives, rng.choice(WHO)])
    text = who if who == "someone" else with_article(who)
    clothes = _clothes(said)
    clothed = f" {rng.choice(('in', 'wearing', 'with', 'dressed in'))} {clothes}" if clothes else ""
    first = rng.random() < 0.5
    if clothed and first:
        text += clothed
    if parts:
        listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
        text += f"{' and' if clothed and first and clothed.startswith(' with') else ''} with {listed}"
    if clothed and not first:
        text += clothed
    if late:
        text += rng.choice((", {}", " looking {}", " who is {}")).format(said["expression"])
    if rng.random() < 0.3:
        text = f"{rng.choice(PREFIXES)} {text}"
    ends = [_background(said["background"], rng)] if "background" in said else []
    if rng.random() < 0.3:
        ends += rng.sample(AFTER, rng.randint(1, 2))
        rng.shuffle(ends)
    return ", ".join([text, *ends])


def _keywords(said: Mapping[str, str], rng: random.Random) -> str:
    parts = _hair(said, rng)
    parts += [said[key] for key in ("expression", "beard", "eyes") if key in said]
    if clothes := _clothes(said):
        parts.append(clothes.removeprefix("a ").removeprefix("an ") if rng.random() < 0.7 else clothes)
    if "skin" in said:
        parts.append(f"{said['skin']} skin")
    if "background" in said:
        parts.append(_background(said["background"], rng))
    if rng.random() < 0.4:
        parts.append(rng.choice(WHO))
    if rng.random() < 0.3:
        parts += rng.sample(BEFORE + AFTER, rng.randint(1, 2))
    rng.shuffle(parts)
    return ", ".join(parts)
