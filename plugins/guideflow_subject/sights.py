"""Where each subject is to be looked for in each picture, and what to do if it is not found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from guideflow.errors import InvalidImage
from guideflow.losses.detections import CENTER, FOUND, LAST, SKIPPED, Memory
from guideflow_subject.assign import assign, candidates, overlap
from guideflow_subject.detector import Detector


class NoSubjectFound(InvalidImage):
    """A subject was not found where it is needed."""


@dataclass(frozen=True)
class Sight:
    """Where a subject is in a picture: status, box (4,) in pixels or None if skipped, and score, nan unless found."""

    image: int
    subject: int
    status: str
    box: Tensor | None = None
    score: float = float("nan")


@dataclass
class Lookout:
    """Finds the subjects in pictures.

    Arguments:
        detector: Finds boxes; None to take the whole picture.
        queries: What it looks for, (S, D).
        distances: From pictures, indices (M,) and boxes (M, 4) to distances (M, S).
        floor: Score under which nothing is a subject.
        on_missing: One of `guideflow.losses.detections.POLICIES`.
        memory: Where subjects were last found.
    """

    detector: Detector | None
    queries: Tensor
    distances: Callable[[Tensor, Tensor, Tensor], Tensor]
    floor: float
    on_missing: str
    memory: Memory = field(default_factory=Memory)

    @torch.no_grad()
    def look(self, image: Tensor) -> list[Sight]:
        """Return a sight for every picture and every subject, pictures first.

        Raises:
            NoSubjectFound: With `on_missing="raise"`, if a subject is not found.
        """
        image = image.detach().clamp(0, 1)
        height, width = image.shape[-2:]
        if self.detector is None:
            whole = image.new_tensor([0, 0, width, height])
            return [Sight(i, 0, FOUND, whole, 1.0) for i in range(len(image))]
        boxes, scores = self.detector.find(image, self.queries)
        matched = [self._match(image[i : i + 1], boxes[i], scores[i]) for i in range(len(image))]
        sights = [
            Sight(i, s, FOUND, boxes[i, n], float(scores[i, s, n]))
            for i, found in enumerate(matched)
            for s, n in found.items()
        ]
        places = [boxes[i, n] for i, found in enumerate(matched) for n in found.values()]
        self.memory.keep(image, [(one.image, one.subject) for one in sights], places)
        for i, found in enumerate(matched):
            taken = [boxes[i, n] for n in found.values()]
            for s in sorted(set(range(len(self.queries))) - found.keys()):
                sights.append(self._without(image, i, s, taken))
        return sorted(sights, key=lambda sight: (sight.image, sight.subject))

    def _match(self, image: Tensor, boxes: Tensor, scores: Tensor) -> dict[int, int]:
        """Return the number of the box of each subject that is found in one picture."""
        smallest = min(8.0, min(image.shape[-2:]) / 8)
        chosen = candidates(boxes.cpu(), scores.cpu(), self.floor, smallest)
        if len(scores) == 1 or not chosen:
            return {0: chosen[0]} if chosen else {}
        allowed = (scores[:, chosen] >= self.floor).T.cpu()
        index = torch.zeros(len(chosen), dtype=torch.long, device=image.device)
        cost = self.distances(image, index, boxes[chosen]).cpu()
        return {s: chosen[k] for k, s in assign(cost, allowed)}

    def _without(self, image: Tensor, i: int, s: int, taken: list[Tensor]) -> Sight:
        """Decide where to look for a subject that is not found; `taken` are the boxes in use, and grows."""
        if self.on_missing == "raise":
            raise NoSubjectFound(
                f"Subject {s} was not found in picture {i} with a score of at least {self.floor}. Go on without with "
                "on_missing='last', or type a lower floor=."
            )
        box, status = None, SKIPPED
        if self.on_missing == "center":
            height, width = image.shape[-2:]
            n, side = len(self.queries), image.new_tensor([width, height, width, height])
            box, status = image.new_tensor([(s + 0.15) / n, 0.15, (s + 0.85) / n, 0.85]) * side, CENTER
        elif self.on_missing == "last":
            box, status = self.memory.recall(image, i, s), LAST
        if box is None or any(overlap(box, other) > 0.5 for other in taken):
            return Sight(i, s, SKIPPED)
        taken.append(box)
        return Sight(i, s, status, box)
