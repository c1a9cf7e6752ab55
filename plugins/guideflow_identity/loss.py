"""`identity`: distance to the people in reference photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from guideflow._devices import as_device
from guideflow._given import one_of
from guideflow._process import adopt
from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.losses.detections import DetectionLoss
from guideflow.losses.matching import Detections
from guideflow.losses.sharing import shared
from guideflow.losses.vision import References, read_subjects
from guideflow_identity.arcface import ArcFaces
from guideflow_identity.dlib import DlibFaces
from guideflow_identity.faces import FaceBackend
from guideflow_identity.matching import Region, assign_in_order, candidates, central, inside, regions, taken
from guideflow_identity.reference import find_reference


class NoFaceFound(InvalidImage):
    """No face was found where one is needed."""


@shared
def load_backend(name: str, pack: str | Path | None = None) -> FaceBackend:
    """Load a face backend by its name."""
    one_of("backend", name, ("dlib", "arcface"))
    return ArcFaces(pack) if name == "arcface" else DlibFaces()


@final
class Identity(DetectionLoss):
    """Distance between the faces in an image and the people in reference photographs.

        loss(x) = mean over people r of  d(f(align(x, face r)), f(align(reference r)))  if r was found,
                                         penalty + d(at the place assumed, if any)      otherwise

    Faces are found without gradient in the clamped image; aligning and embedding them has gradient. A person without
    a face costs more than any wrong face, so that losing the face is never the best image.

    Arguments:
        reference: An image of the person: a path, or a tensor (1, 3, H, W) or (3, H, W) in [0, 1]. For several people
            a list with one entry for each: an image, or a list of images of that person. Of several faces in an
            image the largest counts; one that lies on its side is turned upright, with a warning.
        same_person: A flat list of images shows one person.
        combine: With several images of a person: "mean", distance to the mean of their embeddings, or "best", to
            the nearest of them.
        order: "similar": faces and people are matched so that the sum of distances is least. "left-to-right": the
            people stand in the order of the references.
        region: (left, top, right, bottom) as fractions of the image; only faces with their middle in it count. A list
            gives each person a region.
        threshold: Score in [0, 1] from which a face is sure.
        floor: Score from which a face is taken if there are not enough sure ones; nothing below is ever taken.
        on_missing: If there is no face for a person in an image: "last", look where it was last found in this image,
            or skip; "center", look in the middle (several people: in a row); "skip", no gradient for this person;
            "raise".
        missing_penalty: Loss of a person without a face; by default no face is farther (2.0).
        backend: "dlib" (public domain, ships with guideflow), "arcface" (insightface and its packs; non-commercial),
            or any `FaceBackend`.
        pack: For "arcface": name of a pack in insightface's own folder, or a folder that holds one; by default the
            first in insightface's folder.
        device: Where the networks run.

    Raises:
        InvalidArgument: If options are outside their range or disagree.
        InvalidImage: If a reference cannot be read.
        NoFaceFound: If there is no face in a reference, or in an image with `on_missing="raise"`.

    Not for drawings: the networks know photographs.
    """

    name = "identity"
    extra = "face"
    shows_face = True
    nouns = ("The face of subject", "people")
    seeks = "face"
    missing_error = NoFaceFound

    def __init__(
        self,
        reference: References,
        *,
        same_person: bool = False,
        combine: str = "mean",
        order: str = "similar",
        region: Sequence[float] | Sequence[Region] | None = None,
        threshold: float = 0.5,
        floor: float = 0.2,
        on_missing: str = "last",
        missing_penalty: float | None = None,
        backend: str | FaceBackend = "dlib",
        pack: str | Path | None = None,
        device: str = "cpu",
    ) -> None:
        one_of("combine", combine, ("mean", "best"))
        one_of("order", order, ("similar", "left-to-right"))
        if not 0 < floor <= threshold <= 1:
            raise InvalidArgument(f"Got floor={floor}, threshold={threshold}. Expected 0 < floor <= threshold <= 1.")
        people = read_subjects(reference, same_person, "same_person")
        self._regions = regions(region, len(people))
        if pack is not None and backend != "arcface":
            raise InvalidArgument(
                f"Got pack={str(pack)!r}, which only backend='arcface' reads. Type backend='arcface'."
            )
        if not isinstance(backend, FaceBackend):
            backend = load_backend(backend, pack)
        self._backend: FaceBackend = adopt(backend.to(as_device(device)))  # type: ignore[assignment]
        self._order, self._threshold, self._floor = order, threshold, floor
        penalty = self._backend.farthest if missing_penalty is None else missing_penalty
        super().__init__(
            [[image[0].float() for _, image in one] for one in people], on_missing, penalty, self._backend.template
        )
        each, kept = list[Tensor](), list[Tensor]()
        for person in people:
            embedded, pictures = zip(*(self._embed_reference(*named) for named in person), strict=True)
            each.append(torch.cat(embedded))
            kept += pictures
        self._references = tuple(kept)
        self._targets = [one.mean(0, keepdim=True) if combine == "mean" else one for one in each]

    @torch.no_grad()
    def _embed_reference(self, name: str, image: Tensor) -> tuple[Tensor, Tensor]:
        """Find and embed the largest face of a reference; return the embedding, and what is kept of the image."""
        whole = image.to(self._like)
        reference = find_reference(self._backend, whole, self._floor, self._threshold, name)
        if reference is None:
            raise NoFaceFound(
                f"No face was found in {name}, {image.shape[3]} x {image.shape[2]} pixels, with a score of at least "
                f"{self._floor}. Give an image that shows the face from the front and upright, or type a lower floor=."
            )
        found, kept = reference
        embedding = self._backend.embed(self._backend.align(found.image, found.face.image, found.face.points))
        return embedding, image[0].float() if kept is whole else kept[0].float().cpu()

    def detect(self, image: Tensor) -> Detections:
        """Find the faces that may be somebody's."""
        faces = self._backend.find(image, self._floor)
        allowed = inside(faces, self._regions, image.shape[-2], image.shape[-1])
        score, owner, may = faces.score.tolist(), faces.image.tolist(), allowed.tolist()
        chosen: list[int] = []
        for i in range(len(image)):
            mine = [k for k, one in enumerate(owner) if one == i]
            kept = candidates([score[k] for k in mine], [may[k] for k in mine], self._threshold, self._count)
            chosen += [mine[k] for k in kept]
        some = faces[torch.tensor(chosen, dtype=torch.long, device=image.device)]
        return Detections(some.image, some.points, some.score[:, None].expand(-1, self._count), allowed[chosen])

    def distances(self, image: Tensor, index: Tensor, place: Tensor) -> Tensor:
        """Return the distances (M, R) of faces to each person."""
        embeddings = self._backend.embed(self._backend.align(image, index, place))
        return torch.stack([self._backend.distance(embeddings, one).amin(1) for one in self._targets], dim=1)

    def assign(self, found: Detections, distance: Tensor) -> list[tuple[int, int]]:
        """Match faces with people by their likeness, or in order."""
        if self._order == "similar":
            return super().assign(found, distance)
        return assign_in_order(found.place.mean(1)[:, 0].tolist(), distance, found.allowed)

    def center(self, image: Tensor, subject: int) -> Tensor:
        """Return where the features of a person would be in the middle."""
        return central(self._backend.template, self._backend.size, subject, self._count, *image.shape[-2:])

    def taken(self, place: Tensor, others: Sequence[Tensor]) -> bool:
        """Tell whether a face would be used twice."""
        return taken(place, others)
