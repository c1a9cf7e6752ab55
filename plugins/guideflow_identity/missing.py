"""What to do about a person whose face is not found in a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
