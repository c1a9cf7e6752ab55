"""Which faces of an image count, and what stands for a face that is not found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from guideflow.errors import InvalidArgument
from guideflow_identity.faces import Faces

Region = tuple[float, float, float, float]
"""Left, top, right and bottom as fractions of the image."""

_FORBIDDEN = 1e6


def regions(given: Sequence[float] | Sequence[Sequence[float]] | None, people: int) -> list[Region]:
    """Return one region for each person: the one for all, their own, or the whole image.

    Raises:
        InvalidArgument: If it is not of this form, or not within the image.
    """
    if given is None:
        return [(0.0, 0.0, 1.0, 1.0)] * people
    each = [given] * people if all(isinstance(n, int | float) for n in given) else list(given)
    if len(each) != people or not all(_is_region(one) for one in each):
        raise InvalidArgument(
            f"Got region={given!r} for {people} subjects. Expected (left, top, right, bottom) as fractions of the "
            "image, such as (0, 0, 0.5, 1) for the left half, or a list with one for each subject."
        )
    return [tuple(map(float, one)) for one in each]  # type: ignore[misc, arg-type]


def _is_region(one: object) -> bool:
    if not isinstance(one, Sequence) or len(one) != 4 or not all(isinstance(n, int | float) for n in one):
        return False
    left, top, right, bottom = one
    return 0 <= left < right <= 1 and 0 <= top < bottom <= 1


def inside(faces: Faces, regions: Sequence[Region], height: int, width: int) -> Tensor:
    """Return whether the middle of each face is in the region of each person, (M, R)."""
    centre = (faces.box[:, :2] + faces.box[:, 2:]) / 2 / faces.box.new_tensor([width, height])
    bounds = faces.box.new_tensor(regions)
    return ((centre[:, None] >= bounds[:, :2]) & (centre[:, None] <= bounds[:, 2:])).all(-1)


def candidates(score: Sequence[float], allowed: Sequence[Sequence[bool]], threshold: float, people: int) -> list[int]:
    """Choose among the faces of an image, the best first: those that are sure, or else as many as there are people.

    All that are sure, as in a crowd anyone may be the one looked for.
    """
    usable = [i for i, row in enumerate(allowed) if any(row)]
    sure = [i for i in usable if score[i] >= threshold]
    return sure if len(sure) >= people else usable[:people]


def assign_in_order(place: Sequence[float], distance: Tensor, allowed: Tensor) -> list[tuple[int, int]]:
    """Match faces from left to right with people in the order given.

    With more faces than people, or fewer, those are matched that make the sum of distances (faces, people) least
    without changing the order.
    """
    order = torch.tensor(place).argsort(stable=True)
    cost = torch.where(allowed, distance, _FORBIDDEN)[order].double()
    few, many = sorted(cost.shape)
    table = cost if len(cost) == few else cost.T
    # least[i, j]: the first i of the fewer are matched among the first j of the others.
    least = torch.full((few + 1, many + 1), torch.inf, dtype=torch.float64)
    least[0] = 0
    for i in range(1, few + 1):
        least[i, 1:] = (least[i - 1, :-1] + table[i - 1]).cummin(0).values
    pairs, j = list[tuple[int, int]](), many
    for i in range(few, 0, -1):
        while j > i and least[i, j - 1] == least[i, j]:  # an earlier one is as good
            j -= 1
        pairs.append((i - 1, j := j - 1))
    found = [(int(order[k]), r) for k, r in (pair if len(cost) == few else pair[::-1] for pair in pairs)]
    return [(k, r) for k, r in sorted(found, key=lambda pair: pair[1]) if allowed[k, r]]


def central(template: Tensor, size: int, r: int, people: int, height: int, width: int) -> Tensor:
    """Return where person r's features would be if all people stood in a row in the middle, (P, 2) in pixels."""
    side = 0.6 * min(height, width / people)
    middle = template.new_tensor([(r + 0.5) * width / people, height / 2])
    return (template / size - 0.5) * side + middle


def taken(place: Tensor, others: Sequence[Tensor]) -> bool:
    """Whether a place (P, 2) is that of one of other faces, (P, 2) each."""
    if not others:
        return False
    centre = torch.stack([other.mean(0) for other in others])
    reach = torch.stack([(other - other.mean(0)).norm(dim=1).mean() for other in others])
    return bool(((centre - place.mean(0)).norm(dim=1) < reach).any())
