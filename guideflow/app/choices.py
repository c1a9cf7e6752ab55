"""What there is to pick, and how what was picked becomes a recipe. Nothing here knows a browser."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from guideflow import registry
from guideflow._given import in_range, one_of
from guideflow._solve import solve
from guideflow._told import said
from guideflow.app.fields import Field, fields, needs_path, palette
from guideflow.app.recipe import Name, Part, Recipe
from guideflow.errors import GuideflowError, InvalidArgument

MOST_IMAGES = 6
MOST_ITERATIONS = 200
MOST_STEPS = 64
MOST_EVALUATIONS = 64
"""Of one iteration, which others wait for."""
LARGEST_IMAGE = 1024
LONGEST_PROMPT = 1000

_LIMITS = {"num_steps": MOST_STEPS, "windows": MOST_STEPS, "image_size": LARGEST_IMAGE, "size": LARGEST_IMAGE}
_LIMITS |= dict.fromkeys(("draws", "repeats", "moves", "clean_moves", "permutations"), MOST_EVALUATIONS)
_WEIGHTS = ("weights included", "weights present", "", "weights to download")
_STARTS = ("start", "strength", "mask", "paste_back")


@dataclass(frozen=True)
class Choice:
    """A sampler, loss or solver with the form of its options."""

    kind: str
    name: str
    summary: str
    note: str
    fields: tuple[Field, ...]
    palette: Mapping[str, str]

    @property
    def label(self) -> str:
        """How it is listed."""
        return f"{self.name} ({self.note})" if self.note else self.name


@cache
def choices(kind: str) -> tuple[Choice, ...]:
    """List what is installed, what needs no download first; plugins that fail or need a path are left out."""
    found = []
    for offer in registry.offers(kind):
        try:
            if needs_path(kind, offer.name):
                continue
            entry, form = offer.entry, fields(kind, offer.name)
            weights = entry.weights
            note = weights if weights == "weights to download" else ""
            choice = Choice(kind, offer.name, entry.summary, note, form, palette(kind, offer.name))
        except Exception:  # `guideflow list` says which one, and why
            continue
        found.append((_WEIGHTS.index(weights) if kind != "solver" else 0, choice))
    return tuple(choice for _, choice in sorted(found, key=lambda one: one[0]))


def choice(kind: str, name: Any) -> Choice:
    """Return the one of a name."""
    known = {one.name: one for one in choices(kind)}
    one_of(kind, name, list(known))
    return known[name]


def starting() -> tuple[str, ...]:
    """Return what `solve` takes of a start photograph, its strength, a mask and whether the rest is pasted back."""
    taken = inspect.signature(solve).parameters
    return tuple(name for name in _STARTS if name in taken) if "start" in taken else ()


def read_seeds(text: Any) -> tuple[int, ...]:
    """Read seeds as typed: `0, 1, 2`, or `0:4` for 0 to 3."""
    found: list[int] = []
    for part in re.split(r"[,;\s]+", str(text if text is not None else "").strip()):
        both = re.fullmatch(r"(\d{1,19})(?::(\d{1,19}))?", part)
        if both is None:
            raise InvalidArgument(f"Got the seeds {str(text)[:40]!r}. Expected whole numbers, as in 0, 1, 2 or 0:4.")
        low = int(both[1])
        high = low + 1 if both[2] is None else int(both[2])
        if not low < high:
            raise InvalidArgument(f"Got the seeds {part!r}. Expected a first number and one after the last, as in 0:4.")
        found += range(low, min(high, low + MOST_IMAGES + 1))
    if len(found) > MOST_IMAGES:
        raise InvalidArgument(f"At most {MOST_IMAGES} seeds are taken at once.")
    if max(found) >= 2**63:
        raise InvalidArgument("A seed is too large. Expected numbers below 2**63.")
    return tuple(found)


@dataclass(frozen=True)
class Asked:
    """What a visitor has filled in.

    Arguments:
        sampler: A name.
        losses: Names.
        solver: A name.
        options: By kind, name and option, as typed; what is left out has its default.
        weights: Of the losses; 1 for those left out.
        prompt: One for all images.
        negative_prompt: Likewise.
        seeds: As typed.
        iterations: A number; None leaves it to the solver, as for candidates.
        strength: Of the start photograph.
        paste_back: Whether what is not painted stays as it is.
    """

    sampler: str
    losses: tuple[str, ...]
    solver: str
    options: Mapping[tuple[str, str, str], Any]
    weights: Mapping[str, Any]
    prompt: str = ""
    negative_prompt: str = ""
    seeds: Any = "0"
    iterations: Any = None
    candidates: Any = None
    strength: Any = None
    paste_back: Any = False

    def recipe(self, keep: Callable[[str, Field], list[Name]], start: Mapping[str, Name]) -> Recipe:
        """Read and check it all.

        Arguments:
            keep: Keeps what was dropped for an option of a loss, and returns the names of the files.
            start: File names of the start photograph, as "start", and of the "mask", where there are any.

        Raises:
            InvalidArgument: If something is missing or out of range.
            InvalidImage: If a picture cannot be read.
        """
        if not self.losses:
            raise InvalidArgument("Pick at least one loss: what the pictures are guided by.")
        for name, text in (("prompt", self.prompt), ("negative prompt", self.negative_prompt)):
            if not isinstance(text, str) or len(text) > LONGEST_PROMPT:
                raise InvalidArgument(f"The {name} is too long. At most {LONGEST_PROMPT} letters are read.")
        seeds, iterations = read_seeds(self.seeds), None
        if self.iterations not in (None, ""):
            iterations = _whole("iterations", self.iterations, 0, MOST_ITERATIONS)
        more: dict[str, Any] = {}
        if self.candidates not in (None, "", 0):
            more["candidates"] = _whole("candidates", self.candidates, 1, 64)
        more |= {name: file for name, file in start.items() if name in starting()}
        if "start" in more and "strength" in starting() and self.strength is not None:
            in_range("strength", self.strength, 0, 1, ends="[]")
            more["strength"] = self.strength
        if "mask" in more and "paste_back" in starting() and self.paste_back:
            more["paste_back"] = True
        sampler, solver = self._part("sampler", self.sampler), self._part("solver", self.solver)
        losses = tuple((self._weight(name), self._part("loss", name, keep)) for name in dict.fromkeys(self.losses))
        prompt, negative = " ".join(self.prompt.split()), " ".join(self.negative_prompt.split())
        recipe = Recipe(sampler, losses, solver, prompt, negative, seeds, iterations, more)
        recipe.command()  # refuses what cannot be typed, before the work
        return recipe

    def _weight(self, name: str) -> float:
        weight = self.weights.get(name)
        weight = 1 if weight is None else weight
        in_range(f"the weight of {name}", weight)
        return int(weight) if weight == int(weight) else float(weight)

    def _part(self, kind: str, name: str, keep: Callable[[str, Field], list[Name]] | None = None) -> Part:
        options: dict[str, Any] = {}
        for field in choice(kind, name).fields:
            if field.is_picture:
                files = keep(name, field) if keep else []
                if files:
                    options[field.name] = files if len(files) > 1 else files[0]
                elif field.required:
                    raise InvalidArgument(
                        f"The loss {name} needs a {field.name} picture: drop one, or pick somebody from the gallery."
                    )
                continue
            value = field.read(self.options.get((kind, name, field.name)))
            if field.name in _LIMITS and isinstance(value, int | float) and value > _LIMITS[field.name]:
                raise InvalidArgument(f"Got {field.name}={value!r}. Expected at most {_LIMITS[field.name]}.")
            if field.required or value != field.default:
                options[field.name] = Part(value) if field.kind == "solver" else value
        return Part(name, options)


def _whole(name: str, given: Any, low: int, high: int) -> int:
    fits = isinstance(given, int | float) and not isinstance(given, bool) and low <= given <= high
    if not fits or given != int(given):
        raise InvalidArgument(f"Got {name}={said(given)}. Expected a whole number from {low} to {high}.")
    return int(given)


def explain(error: Exception) -> str:
    """Write an error for a visitor: one line, without the places of files."""
    if isinstance(error, GuideflowError):
        return " ".join(str(error).split())
    return f"Something went wrong ({type(error).__name__}: {' '.join(str(error).split())[:200]})."
