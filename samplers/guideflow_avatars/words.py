"""The words of the avatars world: what a portrait has, how people write it, and what a prompt asks for."""

from __future__ import annotations

import difflib
import functools
import re
import warnings
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

WORDS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {
        "background": {
            "blue": ("blue", "light blue"),
            "green": ("green", "light green"),
            "grey": ("grey", "gray"),
            "orange": ("orange",),
            "pink": ("pink",),
            "purple": ("purple", "violet"),
            "white": ("white",),
            "yellow": ("yellow",),
        },
        "colour": {
            "black": ("black",),
            "blue": ("blue",),
            "grey": ("grey", "gray"),
            "green": ("green",),
            "orange": ("orange",),
            "pink": ("pink",),
            "purple": ("purple", "violet"),
            "red": ("red",),
            "white": ("white",),
            "yellow": ("yellow",),
        },
        "clothes": {
            "dress": ("dress", "sundress", "sleeveless dress"),
            "jacket": ("jacket", "open jacket", "coat", "blazer"),
            "shirt": ("shirt", "collared shirt", "button-up shirt"),
            "t-shirt": ("t-shirt", "tshirt", "tee", "t shirt"),
            "turtleneck": ("turtleneck", "turtleneck sweater", "sweater", "polo neck"),
        },
        "expression": {
            "smiling": ("smiling", "happy", "friendly", "cheerful", "grinning"),
            "laughing": ("laughing", "joyful", "excited"),
            "surprised": ("surprised", "shocked", "astonished", "amazed"),
            "sad": ("sad", "unhappy", "gloomy"),
            "angry": ("angry", "furious", "mad", "grumpy"),
        },
        "hair": {
            "bun": ("hair in a bun", "a bun", "a hair bun", "hair tied up"),
            "side-parted": ("side-parted hair", "combed hair", "hair combed to the side", "neat hair"),
            "spiky": ("spiky hair", "messy hair", "wild hair"),
            "undercut": ("an undercut", "an undercut haircut", "shaved sides"),
        },
        "hair colour": {
            "black": ("black", "dark"),
            "sandy": ("sandy", "dark blond", "light brown"),
            "brown": ("brown", "brunette", "dark brown"),
            "ginger": ("ginger", "auburn", "orange", "copper"),
            "blond": ("blond", "blonde", "golden", "yellow"),
            "grey": ("grey", "gray", "silver", "white"),
            "red": ("red", "bright red"),
        },
        "rear hair": {
            "short": ("short",),
            "long straight": ("long straight", "long"),
            "long wavy": ("long wavy", "long curly", "wavy"),
            "neck-length": ("neck-length", "medium length"),
            "shoulder-length": ("shoulder-length", "shoulder length"),
        },
        "skin": {
            "dark": ("dark", "black", "very dark"),
            "light": ("light", "fair"),
            "brown": ("brown", "medium brown"),
            "tan": ("tan", "tanned", "olive"),
            "pale": ("pale", "white", "very light"),
        },
        "beard": {
            "none": ("no beard", "a clean-shaven face"),
            "chin beard": ("a chin beard", "a small beard", "a soul patch"),
            "goatee": ("a goatee", "a goatee and a moustache", "a circle beard"),
            "full beard": ("a full beard", "a beard", "a thick beard"),
            "long beard": ("a long beard", "a big beard"),
            "moustache": ("a moustache", "a mustache", "a twirled moustache"),
        },
        "eyes": {
            "closed": ("closed eyes", "eyes closed"),
            "open": ("open eyes", "big eyes", "wide eyes"),
            "winking": ("a wink", "one eye closed"),
        },
    }
)
"""For each attribute its words, and for each word the wordings that the generators were trained on.

A colour stands before "background", "backdrop" or "wall", a colour of clothes before the clothes (or "clothes"), colour
and length of hair before "hair", and the colour of the skin before "skin" or "skinned".
"""

_ALSO: Mapping[str, Mapping[str, str]] = {  # understood, though no generator was trained on them
    "beard": {"without a beard": "none", "without beard": "none", "clean-shaven": "none"},
    "eyes": {"winking": "winking"},
}


def asked_attributes(prompt: str) -> dict[str, str]:
    """Tell what a prompt asks for: for each attribute of `WORDS` that it names, the word; the first, if several."""
    text = " ".join(prompt.lower().split())
    asked = {}
    for name in WORDS:
        if found := _pattern(name).search(text):
            wording = next(filter(None, found.groups()))
            meanings = _meanings(name)
            asked[name] = meanings.get(wording) or meanings[f"{wording} hair"]
    return asked


_SMALL: Final = frozenset(
    "a an and or the of in on with without is are who that has have his her their in front at looking wearing dressed "
    "to side up one".split()
)
_PLAIN: Final = _SMALL | frozenset(
    "person people woman women man men girl boy guy lady human character someone face portrait picture image avatar "
    "drawing illustration photo cartoon hair haired hairs background backdrop wall skin skinned clothes clothing beard "
    "moustache eyes eye closed open colour color coloured colored tied shaved sides".split()
)
"""Words that mean something beside those of `WORDS`, or nothing at all."""


def unknown_words(prompt: str) -> dict[str, tuple[str, ...]]:
    """Find the words of a prompt that mean nothing in this world, and for each the known ones that are spelt alike."""
    text = re.sub(r"[^\w\s'-]", " ", prompt.lower())
    known = _known()
    words = dict.fromkeys(one.strip("'-") for one in text.split())
    unknown = [one for one in words if one and not one.isdigit() and one not in known and not _parts(one) <= known]
    candidates = sorted(one for one in known - _SMALL if " " not in one)
    return {one: tuple(difflib.get_close_matches(one, candidates, n=2, cutoff=0.75)) for one in unknown}


def check_words(prompts: Iterable[str]) -> None:
    """Warn of words that are passed over, in one line for all prompts."""
    found = {word: near for prompt in prompts for word, near in unknown_words(prompt).items()}
    if not found:
        return
    told = ", ".join(f"{word!r} (near: {', '.join(near)})" if near else repr(word) for word, near in found.items())
    warnings.warn(
        f"The avatars world passes over words it does not know: {told}. Its words: `guideflow info avatars-perflow`.",
        stacklevel=3,
    )


@functools.cache
def _known() -> frozenset[str]:
    wordings = (one for name in WORDS for one in (*_meanings(name), *WORDS[name]))
    return _PLAIN | {part for one in wordings for part in (one, *one.split(), *_parts(one))}


def _parts(word: str) -> set[str]:
    return set(re.split(r"[\s-]+", word))


@functools.cache
def _pattern(name: str) -> re.Pattern[str]:
    """Match the wordings of an attribute where they mean it."""
    clothes = _any(_meanings("clothes"))
    of_hair = ("rear hair", "hair colour", "hair")  # in any order: "long blond messy hair", "messy long blond hair"
    hair = rf"(?:[ ,-]+(?:{_any(one for key in of_hair for one in _before_hair(key))}))*[ ,-]+hair(?:ed)?"
    places = {
        "background": f"({_any(_meanings(name))}) (?:background|backdrop|wall)",
        "colour": f"({_any(_meanings(name))}) (?:{clothes}|clothes)",
        "skin": f"({_any(_meanings(name))})[ -]skin(?:ned)?",
        "rear hair": f"({_any(_before_hair(name))}){hair}",
        "hair colour": f"({_any(_before_hair(name))}){hair}",
        "hair": f"({_any(_before_hair(name))}){hair}|({_any(_meanings(name))})",
    }
    return re.compile(rf"(?<![\w-])(?:{places.get(name, f'({_any(_meanings(name))})')})(?![\w-])")


@functools.cache
def _meanings(name: str) -> Mapping[str, str]:
    """Each wording of an attribute, without its article, and the word that it means."""
    trained = {re.sub("^an? ", "", one): word for word, several in WORDS[name].items() for one in several}
    return trained | _ALSO.get(name, {})


def _before_hair(name: str) -> list[str]:
    """What of an attribute stands before "hair"."""
    return [one.removesuffix(" hair") for one in _meanings(name) if name != "hair" or one.endswith(" hair")]


def _any(wordings: Iterable[str]) -> str:
    """Match any of these; longer ones first, so that "dark blond" is not "dark"."""
    return "|".join(sorted(map(re.escape, wordings), key=len, reverse=True))
