"""What to do about a person whose face is not found in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

POLICIES = ("last", "center", "skip", "raise")
"""What can be done."""

FOUND, LAST, CENTER, SKIPPED = "found", "last", "center", "skipped"
"""How a person was dealt with in a picture."""

_SAME_PICTURE = 0.15
"""Root mean square difference under which a picture is a later state of another; pictures of two seeds have 0.3."""


def _thumbnail(image: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(image.detach().float().clamp(0, 1), 16)


@dataclass
class Memory:
    """Where each person's face was when it was last found, for each row of the batch.

    A place is only remembered for the picture it was found in and its later states: if the picture in that row is
    quite another one, as in a new solve, there is nothing to remember.
    """

    places: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def keep(self, image: Tensor, found: Sequence[tuple[int, int]], points: Sequence[Tensor]) -> None:
        """Remember the points (P, 2) of each face found, a pair of a picture and a person."""
        if found:
            small = _thumbnail(image)
            for (i, r), place in zip(found, points, strict=True):
                self.places[i, r] = (place, small[i])

    def recall(self, image: Tensor, i: int, r: int) -> Tensor | None:
        """Return where person r was in picture i, (P, 2), or None."""
        if (i, r) not in self.places or i >= len(image):
            return None
        place, small = self.places[i, r]
        here = _thumbnail(image[i : i + 1])[0]
        if small.shape != here.shape or (here - small).square().mean().sqrt() > _SAME_PICTURE:
            return None
        return place


def central(template: Tensor, size: int, r: int, people: int, height: int, width: int) -> Tensor:
    """Return where person r's features would be if all people stood in a row in the middle, (P, 2) in pixels.

    Arguments:
        template: Features in an aligned face, (P, 2).
        size: Side of an aligned face.
        r: Number of the person.
        people: Number of people.
        height: Of the picture.
        width: Of the picture.
    """
    side = 0.6 * min(height, width / people)
    middle = template.new_tensor([(r + 0.5) * width / people, height / 2])
    return (template / size - 0.5) * side + middle


def taken(place: Tensor, others: Sequence[Tensor]) -> bool:
    """Whether a place (P, 2) is that of one of other faces, (P, 2) each: a face must not be used twice."""
    if not others:
        return False
    centre = torch.stack([other.mean(0) for other in others])
    reach = torch.stack([(other - other.mean(0)).norm(dim=1).mean() for other in others])
    return bool(((centre - place.mean(0)).norm(dim=1) < reach).any())
