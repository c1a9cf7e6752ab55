"""What a metric is: a number for each finished picture, by something that did not guide it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from guideflow._process import InOwnState
from guideflow.losses.detections import DetectionLoss
from guideflow.losses.matching import FOUND
from guideflow.losses.vision import read_images
from guideflow.types import LossLike, shown

Source = str | Path | Tensor


@dataclass(frozen=True)
class Case:
    """A finished picture, with what it was made from. Files are read when they are asked for, and not kept.

    Arguments:
        job: Key of the image.
        picture: The guided picture: a path, or a tensor (3, H, W) in [0, 1].
        plain: The picture of the same prompt and seed without guidance, if there is one.
        target: The reference, if there is one.
        about: How the reference is called.
        prompt: What was asked for.
        seed: Of the noise.
        config: What jobs of one configuration, which differ in reference, prompt and seed only, have in common.
        sampler: How the sampler is loaded: its "name" and "options".
        record: Everything that is known about the job by name, times among it.
    """

    job: str
    picture: Source
    plain: Source | None = None
    target: Source | None = None
    about: str = ""
    prompt: str = ""
    seed: int = 0
    config: str = ""
    sampler: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    __repr__ = shown

    @property
    def image(self) -> Tensor:
        """The guided picture, (3, H, W) in [0, 1]."""
        return read_images(self.picture)[0]

    @property
    def unguided(self) -> Tensor:
        """The picture without guidance, (3, H, W) in [0, 1]."""
        return read_images(self.plain, what="unguided picture")[0]

    @property
    def reference(self) -> Tensor:
        """The reference, (3, H, W) in [0, 1]."""
        return read_images(self.target)[0]


class Measured(NamedTuple):
    """What a metric says of one picture.

    Attributes:
        value: The number; nan if there is none.
        detected: Whether what is compared was found in the picture; None where nothing is looked for.
        note: Why there is no number, or what else is to be known.
    """

    value: float = nan
    detected: bool | None = None
    note: str = ""


class Metric(InOwnState, ABC):
    """A number for each finished picture.

    Networks are loaded when a metric is made, frozen. A metric never sees the loss that guided, nor uses its network:
    `guideflow evaluate` compares the weights and refuses one that does.
    """

    name: str = ""
    """What it is called in tables; the name it was loaded by if empty."""

    better: ClassVar[str] = "higher"
    """"higher", "lower", or "neither" for what only describes."""

    needs: ClassVar[tuple[str, ...]] = ()
    """What a case must have: "reference", "prompt", "unguided"."""

    of_set: ClassVar[bool] = False
    """Whether a picture's number depends on the other pictures: then all of a configuration come in one call."""

    paired: ClassVar[bool] = True
    """Whether two pictures of one case can be set against each other: not where numbers are shares in a set's."""

    unit: ClassVar[str] = ""
    """Of the number, such as "s"."""

    digits: ClassVar[int] = 3
    """How many digits after the point tables show."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({f'{self.name!r}, ' if self.name else ''}better: {self.better})"

    @abstractmethod
    def __call__(self, cases: Sequence[Case]) -> Sequence[Measured]:
        """Measure some cases; one answer for each, in their order."""

    def judges(self) -> object:
        """Return what holds the networks that judge; by default the metric itself.

        What only finds the place to look at, such as a detector, is no judge and may be left out.
        """
        return self


class LossMetric(Metric):
    """Likeness by a loss that did not guide:  1 - loss(x), with a loss for each reference or prompt.

    A `DetectionLoss` also tells whether the subject was found; a picture without it has no number.
    """

    needs: ClassVar[tuple[str, ...]] = ("reference",)

    @abstractmethod
    def make(self, case: Case) -> LossLike:
        """Make the loss of a case, on networks that are shared by all."""

    def key(self, case: Case) -> Hashable:
        """Return what cases with the same loss share: by default the reference."""
        return case.about or id(case.target)

    def values(self, loss: Any, images: Tensor) -> Tensor:
        """Return one number for each image, (B,)."""
        value: Tensor = 1 - loss(images)
        return value

    @torch.no_grad()
    def __call__(self, cases: Sequence[Case]) -> Sequence[Measured]:
        """Measure cases in batches of one loss and size."""
        images = [case.image for case in cases]
        groups: dict[Hashable, list[int]] = {}
        for i, (case, image) in enumerate(zip(cases, images, strict=True)):
            groups.setdefault((self.key(case), image.shape), []).append(i)
        found: dict[int, Measured] = {}
        for rows in groups.values():
            loss = self.make(cases[rows[0]])
            values = self.values(loss, torch.stack([images[i] for i in rows])).tolist()
            seen: list[bool | None] = [None] * len(rows)
            if isinstance(loss, DetectionLoss) and loss.outcome is not None:
                seen = [all(status == FOUND for status in each) for each in loss.outcome.status]
            for i, value, there in zip(rows, values, seen, strict=True):
                found[i] = missed() if there is False else measured(value, there)
        return [found[i] for i in range(len(cases))]


def measured(value: float, detected: bool | None = None, note: str = "") -> Measured:
    """Return a measurement; of a number that is not finite, that there is none."""
    return Measured(float(value), detected, note) if isfinite(value) else Measured(nan, detected, note or "not finite")


def missed(note: str = "nothing found") -> Measured:
    """Return that what is compared is not in the picture."""
    return Measured(nan, False, note)
