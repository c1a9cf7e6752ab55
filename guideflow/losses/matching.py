"""What is found in images, which find is which subject, and where a subject was last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from guideflow._require import require

POLICIES: Final = ("last", "center", "skip", "raise")
"""What can be done about a subject that is not found."""

FOUND, LAST, CENTER, SKIPPED = "found", "last", "center", "skipped"
"""How a subject was dealt with in an image."""

_FORBIDDEN = 1e6
_SAME_IMAGE = 0.15
"""Root mean square difference under which an image is a later state of another; images of two seeds have 0.3."""


class Detections(NamedTuple):
    """Candidates found in a batch of images.

    Attributes:
        image: The image of each, (M,), in order.
        place: Where it is, (M, ...).
        score: How sure the detector is that it is each subject, (M, S).
        allowed: Whether it may be that subject, (M, S).
    """

    image: Tensor
    place: Tensor
    score: Tensor
    allowed: Tensor


class Match(NamedTuple):
    """Where a subject is looked for in an image: a status, a place, None if skipped, and a score, nan unless found."""

    image: int
    subject: int
    status: str
    place: Tensor | None = None
    score: float = float("nan")


@dataclass(frozen=True)
class Outcome:
    """What the last call saw: for each image, in order, and each subject.

    Arguments:
        status: "found", or how a missing subject was dealt with: "last", "center" or "skipped".
        place: The box or the points looked at in pixels, (B, S, ...); nan where skipped.
        distance: Distance to the subject there, (B, S); nan where skipped.
        score: The detector's score, (B, S); nan unless found.
    """

    status: tuple[tuple[str, ...], ...]
    place: Tensor
    distance: Tensor
    score: Tensor


class LastPlaces:
    """Where each subject was when it was last found, for each row of the batch.

    A place is only remembered for the image it was found in and its later states: if the image in that row is quite
    another one, as in a new solve, there is nothing to remember.
    """

    def __init__(self) -> None:
        self.places: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def keep(self, image: Tensor, found: Sequence[Match]) -> None:
        """Remember the place of each match."""
        small = _thumbnail(image)
        for match in found:
            if match.place is not None:
                self.places[match.image, match.subject] = (match.place, small[match.image])

    def recall(self, image: Tensor, i: int, s: int) -> Tensor | None:
        """Return where subject s was in image i, or None."""
        place, small = self.places.get((i, s), (None, None))
        if small is None or (_thumbnail(image[i : i + 1])[0] - small).square().mean().sqrt() > _SAME_IMAGE:
            return None
        return place


def assign(distance: Tensor, allowed: Tensor, *, extra: str) -> list[tuple[int, int]]:
    """Match candidates and subjects so that the sum of distances is least, as many as can be (Hungarian assignment).

    Both tables are (candidates, subjects). Returns pairs of a candidate and a subject, none of which is used twice.
    """
    if distance.shape[1] == 1:
        best = int(torch.where(allowed, distance, torch.inf)[:, 0].argmin())
        return [(best, 0)] if allowed[best, 0] else []
    optimize = require("scipy.optimize", extra=extra)
    cost = torch.where(allowed, distance, _FORBIDDEN)
    rows, subjects = optimize.linear_sum_assignment(cost.double().numpy())
    return [(int(k), int(s)) for k, s in zip(rows, subjects, strict=True) if allowed[k, s]]


def _thumbnail(image: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(image.detach().float().clamp(0, 1), 16)
