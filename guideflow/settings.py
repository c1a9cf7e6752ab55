"""How a solve is asked for, and why each of its images was finished."""

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Literal, TypeVar

from guideflow._given import as_text, count, in_range, one_of, plain_number
from guideflow._told import said
from guideflow.errors import InvalidArgument
from guideflow.gradients import MODES

T = TypeVar("T")


class Result(Enum):
    """Why an image was finished; the value is the message."""

    MAX_ITERATIONS = "All iterations were done. Raise `max_iterations`, or `gf.resume` the solution, to go on."
    TARGET_REACHED = "The loss reached `target_loss`."
    NO_IMPROVEMENT = "The loss did not improve for `patience` iterations."
    TIME_LIMIT = "The time limit was reached. `gf.resume` goes on."
    INTERRUPTED = "The solve was interrupted. `gf.resume` goes on."
    ERROR = "The loss, a callback or the device failed; this is what was reached. `gf.resume` goes on."
    NONFINITE = (
        "The loss, its gradient or the controls became nan, inf or huge, in four shorter steps too; this is the last "
        "good iterate. Lower the solver's scale."
    )
    NONFINITE_START = "The unguided image's loss or gradient is nan or inf. Check the loss, or change the seed."

    @property
    def failed(self) -> bool:
        """Whether the image could not be guided as asked."""
        return self in (Result.NONFINITE, Result.NONFINITE_START)

    @property
    def can_go_on(self) -> bool:
        """Whether `resume` continues this image."""
        return self in (Result.MAX_ITERATIONS, Result.TIME_LIMIT, Result.INTERRUPTED, Result.ERROR)


@dataclass(frozen=True)
class Settings:
    """How a solve was asked for, as `solve` has it; prompts and seeds have one entry per image.

    `horizon` is the number of iterations that were planned at first, and `run` the identity of the solve; both stay the
    same after `resume`. `preset` is the name of the preset that the solver's options are from, SAMPLER,LOSS,SOLVER.
    """

    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...] | None
    seeds: tuple[int, ...]
    max_iterations: int
    horizon: int
    candidates: int = 1
    candidate_radius: float = 1.0
    keep: Literal["best", "last"] = "best"
    target_loss: float | None = None
    patience: int | None = None
    loss_scale: float = 100.0
    gradient_mode: str = "full"
    memory_limit: float | None = None
    watermark: bool = False
    preset: str | None = None
    run: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False)

    def __post_init__(self) -> None:
        for item in fields(self):  # what cannot be written as JSON is made plain before the work, not refused after it
            object.__setattr__(self, item.name, plain_number(getattr(self, item.name)))
        if not re.fullmatch("[0-9a-f]{32}", self.run):  # files are named after it
            raise InvalidArgument(f"Got run={self.run!r}. Expected 32 hexadecimal digits; leave it out.")
        if broadcast(self.prompts, self.negative_prompts, self.seeds) != (
            self.prompts,
            self.negative_prompts,
            self.seeds,
        ):
            raise InvalidArgument("Expected a prompt and a seed for each image.")
        count("max_iterations", self.max_iterations, low=0)
        count("horizon", self.horizon, low=0)
        count("candidates", self.candidates)
        in_range("candidate_radius", self.candidate_radius, 0, 1, ends="(]")
        one_of("keep", self.keep, ("best", "last"))
        one_of("gradient_mode", self.gradient_mode, ("auto", *MODES))
        in_range("loss_scale", self.loss_scale, 0)
        if not isinstance(self.preset, str | None):
            raise InvalidArgument(f"Got preset={self.preset!r} in settings. Expected the name of one, or None.")
        if self.patience is not None:
            count("patience", self.patience)
        if self.target_loss is not None:
            in_range("target_loss", self.target_loss)
        if self.memory_limit is not None:
            in_range("memory_limit", self.memory_limit, 0)


def broadcast(
    prompt: Any, negative_prompt: Any, seed: Any, starts: int = 1
) -> tuple[tuple[str, ...], tuple[str, ...] | None, tuple[int, ...]]:
    """Return a prompt, a negative prompt (or None) and a seed for each image; `starts` counts start pictures."""
    given: dict[str, Any] = {"prompt": _each(prompt, "prompt", _text), "seed": _each(seed, "seed", _seed)}
    if negative_prompt is not None:
        given["negative_prompt"] = _each(negative_prompt, "negative_prompt", _text)
    if starts > 1:
        given["start"] = (None,) * starts
    batch = max(map(len, given.values()))
    if batch == 0 or any(len(values) not in (1, batch) for values in given.values()):
        counts = ", ".join(f"{len(values)} for `{name}`" for name, values in given.items())
        raise InvalidArgument(f"Got lists of different lengths: {counts}. Give each one value, or one per image.")
    full = {name: values * (batch // len(values)) for name, values in given.items()}
    return full["prompt"], full.get("negative_prompt"), full["seed"]


def _each(given: Any, name: str, read: Callable[[str, Any], T | None]) -> tuple[T, ...]:
    """Read one value, or each of several; numbers may be numpy's or torch's."""
    try:
        values = [given] if isinstance(given, str | bytes) or getattr(given, "shape", None) == () else [*given]
    except TypeError:  # one number
        values = [given]
    found = []
    for value in values:
        if (one := read(name, value)) is None:
            wanted = "whole numbers from -2**63 to 2**64 - 1" if read is _seed else "str"
            raise InvalidArgument(f"Got {said(value)} in `{name}`. Expected {wanted} only.")
        found.append(one)
    return tuple(found)


def _text(name: str, value: Any) -> str | None:
    return as_text(name, value) if isinstance(value, str) else None


def _seed(_: str, value: Any) -> int | None:
    value = plain_number(value)
    fits = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**64
    return value if fits else None
