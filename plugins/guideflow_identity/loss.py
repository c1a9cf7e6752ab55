"""`identity`: distance to the people in reference photographs."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from guideflow.errors import InvalidArgument
from guideflow.images import check_image
from guideflow.losses.base import Loss
from guideflow.losses.detections import CENTER, FOUND, LAST, POLICIES, SKIPPED, Memory
from guideflow.types import PerImage
from guideflow_identity.arcface import ArcFaces
from guideflow_identity.assign import Region, regions
from guideflow_identity.dlib import DlibFaces
from guideflow_identity.faces import FaceBackend
from guideflow_identity.references import References, group, meet
from guideflow_identity.sights import Lookout, Sight


@dataclass(frozen=True)
class Outcome:
    """What the last call saw: for each picture, in order, and each person.

    Arguments:
        status: "found", or how a missing face was dealt with: "last", "center" or "skipped".
        distance: Distance to the person, (B, R); nan where no place was looked at.
        score: The detector's score of the face, (B, R); nan where none was found.
    """

    status: tuple[tuple[str, ...], ...]
    distance: Tensor
    score: Tensor


class Identity(Loss):
    """Distance between the faces in a picture and the people in reference photographs.

        loss(x) = mean over people r of  d(f(align(x, face r)), f(align(reference r)))   if a face was found for r,
                                         penalty + d(at the place assumed, if any)       otherwise

    Faces are found without gradient in the clamped picture; aligning and describing them has gradient. A person without
    a face costs more than any wrong face, so that losing the face is never the best picture.

    Arguments:
        reference: A picture of the person: a path, or a tensor (1, 3, H, W) or (3, H, W) in [0, 1]. For several people
            a list with one entry for each: a picture, or a list of pictures of that person. Of several faces in a
            picture the largest counts.
        same_person: A flat list of pictures shows one person.
        combine: With several pictures of a person: "mean", distance to the mean of their descriptions, or "best", to
            the nearest of them.
        order: "similar": faces and people are matched so that the sum of distances is least. "left-to-right": the
            people stand in the order of the references.
        region: (left, top, right, bottom) as fractions of the picture; only faces with their middle in it count. A list
            gives each person a region.
        threshold: Score in [0, 1] from which a face is sure.
        floor: Score from which a face is taken if there are not enough sure ones; nothing below is ever taken.
        on_missing: If there is no face for a person in a picture: "last", look where it was last found in this picture,
            or skip; "center", look in the middle (several people: in a row); "skip", no gradient for this person;
            "raise".
        missing_penalty: Loss of a person without a face; by default no face is farther (2.0).
        backend: "dlib" (public domain, ships with guideflow), "arcface" (insightface's packs; non-commercial), or any
            `FaceBackend`.
        pack: Folder of the insightface pack for "arcface"; by default insightface's own.
        device: Where the networks run.

    Raises:
        InvalidArgument: If options are outside their range or disagree.
        InvalidImage: If a reference cannot be read.
        NoFaceFound: If there is no face in a reference, or in a picture with `on_missing="raise"`.

    Not for drawings: the networks know photographs.
    """

    name = "identity"

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
        """Read the references and describe the people in them."""
        _among("combine", combine, ("mean", "best"))
        _among("order", order, ("similar", "left-to-right"))
        _among("on_missing", on_missing, POLICIES)
        if not 0 < floor <= threshold <= 1:
            raise InvalidArgument(f"Got floor={floor}, threshold={threshold}. Expected 0 < floor <= threshold <= 1.")
        people = group(reference, same_person)
        where = regions(region, len(people))
        self._backend = _backend(backend, pack).to(device).eval().requires_grad_(False)
        if missing_penalty is not None and not 0 <= missing_penalty < float("inf"):
            raise InvalidArgument(f"Got missing_penalty={missing_penalty}. Expected a finite number of at least 0.")
        self._penalty = self._backend.farthest if missing_penalty is None else float(missing_penalty)
        self._combine, self._order, self._on_missing = combine, order, on_missing
        self._threshold, self._floor = threshold, floor
        self._subjects = meet(people, self._backend, threshold, floor)
        self._targets = [
            subject.descriptions.mean(0, keepdim=True) if combine == "mean" else subject.descriptions
            for subject in self._subjects
        ]
        self._lookout = Lookout(self._backend, self._distances, where, order, threshold, floor, on_missing, Memory())
        self._outcome: Outcome | None = None
        self._seen: weakref.ref[Tensor] | None = None

    def __call__(self, image: Tensor) -> PerImage:
        """Return the mean distance to the people for each picture, from 0."""
        check_image(image)
        x = image.to(self._backend.template)
        sights = self._lookout.look(x)
        seen = [sight for sight in sights if sight.points is not None]
        each = x.new_full((len(x), len(self._targets)), self._penalty)
        if seen:
            index, person = torch.tensor([[s.image, s.person] for s in seen], device=x.device).T
            points = torch.stack([s.points for s in seen if s.points is not None])
            distance = self._distances(self._backend.embed(x, index, points)).gather(1, person[:, None])[:, 0]
            penalty = x.new_tensor([0.0 if s.status == FOUND else self._penalty for s in seen])
            each = each.index_put((index, person), distance + penalty)
        self._outcome = _outcome(sights, each.detach(), self._penalty)
        self._seen = weakref.ref(image)
        # The second term is a gradient of zero for pictures in which there is nothing to look at.
        return each.mean(1) + 0 * x.flatten(1).sum(1)

    @property
    def outcome(self) -> Outcome | None:
        """What the last call saw; None before the first."""
        return self._outcome

    @property
    def missing(self) -> Missing:
        """A loss to log beside this one, `loss + 0 * loss.missing`: the number of people without a face."""
        return Missing(self)

    def forget(self) -> None:
        """Forget where faces were last found, as if nothing had been looked at yet."""
        self._lookout.memory.places.clear()

    def references(self) -> tuple[Tensor, ...]:
        """Return the reference pictures, (3, H, W) each."""
        return tuple(picture for subject in self._subjects for picture in subject.pictures)

    def describe(self) -> str:
        """Return one line that says what is minimised."""
        people = len(self._subjects)
        return f"{self.name} ({people} people)" if people > 1 else self.name

    def _distances(self, descriptions: Tensor) -> Tensor:
        """Distances (M, R) to each person."""
        each = [self._backend.distance(descriptions, target).amin(1) for target in self._targets]
        return torch.stack(each, dim=1)


class Missing(Loss):
    """Number of people of an `Identity` for whom no face was found, for each picture; no gradient, so only to log.

    Arguments:
        identity: The loss that looks for them.
    """

    name = "identity-missing"

    def __init__(self, identity: Identity) -> None:
        """Remember the loss."""
        self._identity = identity

    def __call__(self, image: Tensor) -> PerImage:
        """Return the number, (B,), of what the loss saw; if it was not given these pictures last, it looks again."""
        if self._identity._seen is None or self._identity._seen() is not image:
            with torch.no_grad():
                self._identity(image)
        outcome = self._identity.outcome
        assert outcome is not None
        return outcome.score.isnan().sum(1).to(outcome.score.dtype)


def _outcome(sights: Sequence[Sight], each: Tensor, penalty: float) -> Outcome:
    people = each.shape[1]
    status = [sight.status for sight in sights]
    offset = {FOUND: 0.0, LAST: penalty, CENTER: penalty, SKIPPED: float("nan")}
    return Outcome(
        status=tuple(tuple(status[i : i + people]) for i in range(0, len(status), people)),
        distance=each - each.new_tensor([offset[one] for one in status]).view_as(each),
        score=each.new_tensor([sight.score for sight in sights]).view_as(each),
    )


def _among(name: str, given: object, known: Sequence[str]) -> None:
    if given not in known:
        raise InvalidArgument(f"Got {name}={given!r}. Expected one of: {', '.join(map(repr, known))}.")


def _backend(backend: str | FaceBackend, pack: str | Path | None) -> FaceBackend:
    if pack is not None and backend != "arcface":
        raise InvalidArgument(f"Got pack={str(pack)!r}, which only backend='arcface' reads. Type backend='arcface'.")
    if isinstance(backend, FaceBackend):
        return backend
    _among("backend", backend, ("dlib", "arcface"))
    if backend == "arcface":
        return ArcFaces(pack)
    return DlibFaces()
