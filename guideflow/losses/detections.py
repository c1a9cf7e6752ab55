"""What losses that look for several subjects share: which find is which subject, and what if one is not found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from guideflow._require import require

POLICIES = ("last", "center", "skip", "raise")
"""What can be done about a subject that is not found."""

FOUND, LAST, CENTER, SKIPPED = "found", "last", "center", "skipped"
"""How a subject was dealt with in a picture."""

_FORBIDDEN = 1e6
_SAME_PICTURE = 0.15
"""Root mean square difference under which a picture is a later state of another; pictures of two seeds have 0.3."""


def assign(distance: Tensor, allowed: Tensor, *, extra: str) -> list[tuple[int, int]]:
    """Match finds and subjects so that the sum of distances is least, as many as can be (Hungarian assignment).

    Arguments:
        distance: (finds, subjects).
        allowed: Whether a find may be that subject, (finds, subjects).
        extra: The extra of guideflow that brings scipy, which several subjects need.

    Returns:
        Pairs of a find and a subject: every subject gets at most one, and no find is used twice.

    Raises:
        MissingExtra: If there are several subjects and scipy is not installed.
    """
    if distance.shape[1] == 1:
        best = int(torch.where(allowed, distance, torch.inf)[:, 0].argmin())
        return [(best, 0)] if allowed[best, 0] else []
    optimize = require("scipy.optimize", extra=extra)
    cost = torch.where(allowed, distance, _FORBIDDEN)
    finds, subjects = optimize.linear_sum_assignment(cost.double().numpy())
    return [(int(k), int(r)) for k, r in zip(finds, subjects, strict=True) if allowed[k, r]]


def _thumbnail(image: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(image.detach().float().clamp(0, 1), 16)


@dataclass
class Memory:
    """Where each subject was when it was last found, for each row of the batch.

    A place is only remembered for the picture it was found in and its later states: if the picture in that row is
    quite another one, as in a new solve, there is nothing to remember.
    """

    places: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def keep(self, image: Tensor, found: Sequence[tuple[int, int]], places: Sequence[Tensor]) -> None:
        """Remember the place of each find, a pair of a picture and a subject."""
        if found:
            small = _thumbnail(image)
            for (i, r), place in zip(found, places, strict=True):
                self.places[i, r] = (place, small[i])

    def recall(self, image: Tensor, i: int, r: int) -> Tensor | None:
        """Return where subject r was in picture i, or None."""
        if (i, r) not in self.places or i >= len(image):
            return None
        place, small = self.places[i, r]
        here = _thumbnail(image[i : i + 1])[0]
        if small.shape != here.shape or (here - small).square().mean().sqrt() > _SAME_PICTURE:
            return None
        return place
