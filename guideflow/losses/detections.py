"""Losses on what is detected in images: detect, match with the subjects of the references, fall back, compare.

Where a thing is, its place, is a tensor: a box or some points, in pixels.
"""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from guideflow._given import in_range, one_of
from guideflow._process import own_state
from guideflow.errors import InvalidImage
from guideflow.images import check_image
from guideflow.losses.base import Loss
from guideflow.losses.matching import (
    CENTER,
    FOUND,
    LAST,
    POLICIES,
    SKIPPED,
    Detections,
    LastPlaces,
    Match,
    Outcome,
    assign,
)

_AT_ONCE = 64
"""Of a crowd so many are compared at once, so that memory is bounded."""


class DetectionLoss(Loss):
    """Distance between the subjects in an image and those in reference images.

        loss(x) = mean over subjects s of  d(x, place of s)                           if s was found,
                                           penalty + d(x, place assumed, if any)      otherwise

    Places are found without gradient in the clamped image, and compared with gradient. A subject that is not found
    costs more than any wrong one, so that losing it is never the best image.

    Arguments:
        references: The reference images of each subject, (3, H, W) each.
        on_missing: One of `POLICIES`.
        penalty: Loss of a subject that is not found.
        like: A tensor of the device and the dtype in which images are compared.
    """

    extra: ClassVar[str]
    """The extra of guideflow that brings scipy, which several subjects need."""

    nouns: ClassVar[tuple[str, str]] = ("Subject", "subjects")
    """What one, and several, are called in messages."""

    seeks: ClassVar[str] = "subject"
    """What it looks for in images, in a word."""

    missing_error: ClassVar[type[InvalidImage]]
    """What `on_missing="raise"` raises."""

    outcome: Outcome | None = None
    """What the last call saw; None before the first."""

    def __init__(self, references: Sequence[Sequence[Tensor]], on_missing: str, penalty: float, like: Tensor) -> None:
        one_of("on_missing", on_missing, POLICIES)
        in_range("missing_penalty", penalty, 0)
        self._references, self._count = tuple(image for each in references for image in each), len(references)
        self._on_missing, self._penalty, self._like = on_missing, float(penalty), like
        self._last = LastPlaces()
        self._seen: weakref.ref[Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind which tensor was seen last: it is none of another process's."""
        return super().__getstate__() | {"_seen": None}

    @abstractmethod
    def detect(self, image: Tensor) -> Detections:
        """Find candidates in images (B, 3, H, W), the best of each image first; called without gradient."""

    @abstractmethod
    def distances(self, image: Tensor, index: Tensor, place: Tensor) -> Tensor:
        """Return the distances (M, S) of what is at places (M, ...) of the images `index` (M,) to each subject."""

    @abstractmethod
    def center(self, image: Tensor, subject: int) -> Tensor:
        """Return the place of a subject if all stood in a row in the middle of the images."""

    @abstractmethod
    def taken(self, place: Tensor, others: Sequence[Tensor]) -> bool:
        """Tell whether a place is that of one of others: nothing may be used twice."""

    def assign(self, found: Detections, distance: Tensor) -> list[tuple[int, int]]:
        """Return pairs of a candidate of one image and a subject, given their distances (M, S)."""
        return assign(distance, found.allowed, extra=self.extra)

    def __call__(self, image: Any) -> Tensor:
        """Return the mean distance to the subjects for each image, from 0."""
        check_image(image)
        x = image.to(self._like)
        matches = self._match(x)
        each = x.new_full((len(x), self._count), self._penalty)
        distance = torch.full_like(each, torch.nan)
        places = [match.place for match in matches if match.place is not None]
        place = x.new_full((len(matches), *(places[0].shape if places else (4,))), torch.nan)
        if places:
            index, subject = torch.tensor([m[:2] for m in matches if m.place is not None], device=x.device).T
            here = torch.stack(places)
            found = self.distances(x, index, here).gather(1, subject[:, None])[:, 0]
            penalty = [0.0 if m.status == FOUND else self._penalty for m in matches if m.place is not None]
            each = each.index_put((index, subject), found + x.new_tensor(penalty))
            distance[index, subject] = found.detach()
            place[index * self._count + subject] = here.to(place)
        rows = range(0, len(matches), self._count)
        self.outcome = Outcome(
            status=tuple(tuple(match.status for match in matches[i : i + self._count]) for i in rows),
            place=place.unflatten(0, (len(x), self._count)),
            distance=distance,
            score=x.new_tensor([match.score for match in matches]).view(len(x), self._count),
        )
        self._seen = weakref.ref(image)
        # The second term is a gradient of zero for images in which there is nothing to look at.
        value: Tensor = each.mean(1) + 0 * x.flatten(1).sum(1)
        return value

    @own_state()
    @torch.no_grad()
    def _match(self, x: Tensor) -> list[Match]:
        """Return a match for every image and every subject, images first."""
        x = x.detach().clamp(0, 1)
        found = self.detect(x)
        found = found._replace(allowed=found.allowed.cpu())  # only numbers leave the device, no images
        owner = found.image.tolist()
        rows = [[k for k, one in enumerate(owner) if one == i] for i in range(len(x))]
        if not owner or (self._count == 1 and all(len(each) <= 1 for each in rows)):
            pairs = [[(k, 0) for k in each if found.allowed[k, 0]] for each in rows]
        else:
            parts = zip(torch.split(found.image, _AT_ONCE), torch.split(found.place, _AT_ONCE), strict=True)
            table = torch.cat([self.distances(x, *part).cpu() for part in parts])
            pairs = []
            for row in rows:
                some = Detections(*(part[row] for part in found))
                pairs.append([(row[k], s) for k, s in self.assign(some, table[row])] if row else [])
        score = found.score.tolist()
        matches = [
            Match(i, s, FOUND, found.place[k], score[k][s]) for i, each in enumerate(pairs) for k, s in sorted(each)
        ]
        self._last.keep(x, matches)
        for i, each in enumerate(pairs):
            here = [found.place[k] for k, _ in each]
            matches += [self._without(x, i, s, here) for s in sorted(set(range(self._count)) - {s for _, s in each})]
        return sorted(matches, key=lambda match: match[:2])

    def _without(self, x: Tensor, i: int, s: int, here: list[Tensor]) -> Match:
        """Decide where to look for a subject that is not found; `here` are the places in use, and grows."""
        if self._on_missing == "raise":
            raise self.missing_error(
                f"{self.nouns[0]} {s} was not found in image {i}. Go on without with on_missing='last', or type a "
                "lower floor=."
            )
        place, status = None, SKIPPED
        if self._on_missing == "last":
            place, status = self._last.recall(x, i, s), LAST
        elif self._on_missing == "center":
            place, status = self.center(x, s), CENTER
        if place is None or self.taken(place, here):
            return Match(i, s, SKIPPED)
        here.append(place)
        return Match(i, s, status, place)

    @property
    def missing(self) -> Missing:
        """A loss to log beside this one, `loss + 0 * loss.missing`: the number of subjects that are not found."""
        return Missing(self)

    def forget(self) -> None:
        """Forget where subjects were last found, as if nothing had been looked at yet."""
        self._last.places.clear()

    def describe(self) -> str:
        """Return one line that says what is minimised."""
        return f"{self.name} ({self._count} {self.nouns[1]})" if self._count > 1 else self.name


class Missing(Loss):
    """Number of subjects of a loss that were not found, for each image; no gradient, so only to log.

    Arguments:
        loss: The loss that looks for them.
    """

    def __init__(self, loss: DetectionLoss) -> None:
        self.name, self._loss = f"{loss.name}-missing", loss

    def __call__(self, image: Any) -> Tensor:
        """Return the number, (B,), of what the loss saw; if it was not given these images last, it looks again."""
        if self._loss._seen is None or self._loss._seen() is not image:
            with torch.no_grad():
                self._loss(image)
        outcome = self._loss.outcome
        assert outcome is not None
        return outcome.score.isnan().sum(1).to(outcome.score.dtype)
