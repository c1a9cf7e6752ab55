"""Where each person is to be looked for in each picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guideflow.losses.detections import CENTER, FOUND, LAST, SKIPPED, Memory
from guideflow_identity.assign import Region, assign, assign_in_order, candidates, inside
from guideflow_identity.faces import FaceBackend, Faces
from guideflow_identity.missing import central, taken
from guideflow_identity.references import NoFaceFound


@dataclass(frozen=True)
class Sight:
    """Where a person is in a picture.

    Arguments:
        image: Number of the picture.
        person: Number of the person.
        status: "found", or how a missing face is dealt with: "last", "center" or "skipped".
        points: Where the features are, (P, 2) in pixels; None if skipped.
        score: The detector's score; nan unless found.
    """

    image: int
    person: int
    status: str
    points: Tensor | None = None
    score: float = float("nan")


@dataclass
class Lookout:
    """Finds the people of the references in pictures.

    Arguments:
        backend: Finds and describes faces.
        distances: From descriptions (M, C) to distances (M, R) to each person.
        regions: Where each person may be.
        order: "similar" or "left-to-right".
        threshold: Score from which a face is sure.
        floor: Score under which nothing is a face.
        on_missing: "last", "center", "skip" or "raise".
        memory: Where people were last found.
    """

    backend: FaceBackend
    distances: Callable[[Tensor], Tensor]
    regions: Sequence[Region]
    order: str
    threshold: float
    floor: float
    on_missing: str
    memory: Memory

    def look(self, image: Tensor) -> list[Sight]:
        """Return a sight for every picture and every person, pictures first.

        Raises:
            NoFaceFound: With `on_missing="raise"`, if there is no face for a person.
        """
        with torch.no_grad():
            faces = self.backend.find(image, self.floor)
            matched = self._match(image, faces)
        score = faces.score.tolist()
        sights = [
            Sight(i, r, FOUND, faces.points[k], score[k]) for i, pairs in enumerate(matched) for k, r in sorted(pairs)
        ]
        self.memory.keep(image, [(sight.image, sight.person) for sight in sights], [s.points for s in sights])
        for i, pairs in enumerate(matched):
            here = [faces.points[k] for k, _ in pairs]
            for r in sorted(set(range(len(self.regions))) - {r for _, r in pairs}):
                sights.append(self._without_face(image, i, r, here))
        return sorted(sights, key=lambda sight: (sight.image, sight.person))

    def _match(self, image: Tensor, faces: Faces) -> list[list[tuple[int, int]]]:
        """Return pairs of a face and a person for each picture; only numbers leave the device, no pictures."""
        people = len(self.regions)
        allowed = inside(faces, self.regions, image.shape[-2], image.shape[-1]).cpu()
        score, owner, may = faces.score.tolist(), faces.image.tolist(), allowed.tolist()
        chosen = []
        for i in range(len(image)):
            mine = [k for k, one in enumerate(owner) if one == i]
            kept = candidates([score[k] for k in mine], [may[k] for k in mine], self.threshold, people)
            chosen.append([mine[k] for k in kept])
        if people == 1 and all(len(mine) <= 1 for mine in chosen):
            return [[(k, 0) for k in mine] for mine in chosen]
        some = faces[torch.tensor([k for mine in chosen for k in mine], dtype=torch.long, device=image.device)]
        table = self.distances(self.backend.embed(image, some.image, some.points)).cpu()
        middle = some.points.mean(1)[:, 0].tolist()
        matched, start = [], 0
        for mine in chosen:
            rows = slice(start, start := start + len(mine))
            if not mine:
                pairs = []
            elif self.order == "similar":
                pairs = assign(table[rows], allowed[mine])
            else:
                pairs = assign_in_order(middle[rows], table[rows], allowed[mine])
            matched.append([(mine[k], r) for k, r in pairs])
        return matched

    def _without_face(self, image: Tensor, i: int, r: int, here: list[Tensor]) -> Sight:
        """Decide where to look for a person without a face; `here` are the places taken, and grows."""
        where, status = None, SKIPPED
        if self.on_missing == "raise":
            raise NoFaceFound(
                f"No face for subject {r} was found in picture {i} with a score of at least {self.floor}. Go on "
                "without with on_missing='last', or type a lower floor=."
            )
        if self.on_missing == "last":
            where, status = self.memory.recall(image, i, r), LAST
        elif self.on_missing == "center":
            size = image.shape[-2:]
            where = central(self.backend.template, self.backend.size, r, len(self.regions), *size)
            status = CENTER
        if where is None or taken(where, here):
            return Sight(i, r, SKIPPED)
        here.append(where)
        return Sight(i, r, status, where)
