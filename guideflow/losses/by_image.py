"""A loss of its own for each image of a batch: images of several references go through the generator together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from guideflow.errors import InvalidLoss
from guideflow.losses.base import Loss, Term, WeightedSum, as_sum
from guideflow.losses.evaluation import Evaluation
from guideflow.types import LossLike


def by_image(losses: Sequence[LossLike]) -> WeightedSum:
    """Return the loss by which image i has losses[i]; terms keep their names and weights.

    Arguments:
        losses: One for each image, all of one `outline`; one that stands there several times sees its images at once.

    Raises:
        InvalidLoss: If their outlines differ.
    """
    sums = [as_sum(loss) for loss in losses]
    if len({outline(one) for one in sums}) != 1:
        told = "; ".join(dict.fromkeys(one.describe() for one in sums))
        raise InvalidLoss(f"Got losses of other terms for the images of a batch: {told}. Expected the same for all.")
    first = sums[0]
    if all(one is first for one in sums):
        return first
    columns = zip(*(one.terms for one in sums), strict=True)
    return replace(first, terms=tuple(replace(column[0], loss=ByImage(column)) for column in columns))


def outline(loss: LossLike) -> Hashable:
    """Return the names and weights of a loss's terms, with which images can be solved together."""
    return tuple((term.name, term.weight, term.ramps) for term in as_sum(loss).terms)


@final
class ByImage(Loss):
    """A term of each image's own; every loss is evaluated once, on all the images that have it.

    Arguments:
        terms: One for each image.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.name, self._count = terms[0].name, len(terms)
        places: dict[int, list[int]] = {}
        for i, term in enumerate(terms):
            places.setdefault(id(term.loss), []).append(i)
        self._places = [*places.values()]
        self._terms = [replace(terms[some[0]], weight=1.0, ramps=()) for some in self._places]

    def __call__(self, image: Any) -> Tensor:
        """Return the loss of each image."""
        return self.evaluate(image).loss

    def evaluate(self, images: Tensor, iteration: int | None = None) -> Evaluation:
        """Return what each loss says of its own images; of a term that a loss does not have, nan."""
        if len(images) != self._count:
            raise InvalidLoss(f"Got {len(images)} images for the losses of {self._count}. Expected one image for each.")
        pairs = zip(self._terms, self._places, strict=True)
        found = [term.evaluate(images[places], iteration) for term, places in pairs]
        order = torch.tensor([i for places in self._places for i in places], device=images.device).argsort()
        names = list(dict.fromkeys(name for one in found for name in one.terms))
        lacking = images.new_tensor(torch.nan)

        def joined(parts: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(parts))[order]

        return Evaluation(
            joined([one.loss for one in found]),
            joined([one.objective for one in found]),
            {name: joined([one.terms.get(name, lacking.expand(len(one.loss))) for one in found]) for name in names},
        )

    @property
    def inside(self) -> Sequence[Term]:
        """The terms of all images."""
        return self._terms

    @property
    def settled(self) -> int:
        """First iteration from which every loss is that of the end."""
        return max(term.loss.settled if isinstance(term.loss, Loss) else 0 for term in self._terms)

    @property
    def lasting(self) -> bool:
        """Whether something is left of every loss in the end."""
        return all(getattr(term.loss, "lasting", True) for term in self._terms)

    def references(self) -> Sequence[Tensor]:
        """Return the reference images of all."""
        return tuple(one for term in self._terms if isinstance(term.loss, Loss) for one in term.loss.references())
