"""`subject`: distance to an animal or a thing in reference photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guideflow._devices import as_device
from guideflow._given import as_texts, count, in_range, one_of
from guideflow._process import adopt
from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.losses.detections import DetectionLoss
from guideflow.losses.matching import Detections
from guideflow.losses.needed import as_needed
from guideflow.losses.vision import References, read_subjects
from guideflow_subject import DETECTOR, NETWORK
from guideflow_subject.detector import SAME, Detector, OwlViT, candidates, overlap
from guideflow_subject.features import EXTRA, IMAGENET, Features, load, read_normalisation

_SEEN = 512
"""Pixels that are kept twice, of the shorter side of a reference: a subject may be a part of it."""


class NoSubjectFound(InvalidImage):
    """A subject was not found where it is needed."""


class Reference(NamedTuple):
    """A subject in its N images: crops (N, 3, size, size), embeddings (N, C), and what a detector looks for, (D,)."""

    crops: Tensor
    embeddings: Tensor
    query: Tensor


@final
class Subject(DetectionLoss):
    """Distance between the subjects in an image and those in reference images.

        loss(x) = mean over subjects s of  d(crop(x, box s), crop(reference s))      if s was found,
                                           penalty + d(at the place assumed, if any)  otherwise
        d(a, b) = 1 - cos(f(a), f(b)) + l1 mean |a - b|

    Boxes are found without gradient in the clamped image; cropping (ROI align) and embedding have gradient. Crops
    are squares of `size` pixels, made alike for references and images. A subject that is not found costs more than
    any wrong one, so that losing it is never the best image.

    Arguments:
        reference: An image of the subject: a path, or a tensor (1, 3, H, W) or (3, H, W) in [0, 1]. For several
            subjects a list with one entry for each: an image, or a list of images of that subject. Several subjects
            are matched with what is found so that the sum of distances is least, and no box is used twice.
        text: What the subject is, such as "a cat", to find it in the reference; for several a list. None: what the
            reference shows as a whole.
        same_subject: A flat list of images shows one subject.
        combine: With several images of a subject: "mean", distance to the mean of their embeddings (and mean
            difference of pixels), or "best", to the nearest of them.
        l1: Weight of the difference of pixels: 10 for things of rigid shape (the paper's), 0 for animals.
        network: Name on the Hub, folder, or a module from images (M, 3, size, size), normalised as ImageNet's, to
            embeddings (M, C).
        size: Side of the crops that the network sees.
        detector: Name on the Hub, folder, a `Detector`, or None to compare whole images.
        floor: Score in [0, 1] under which nothing is taken for a subject.
        on_missing: If a subject is not found in an image: "last", look where it was last found in this image, or
            skip; "center", look in the middle (several: in a row); "skip", no gradient for it; "raise".
        missing_penalty: Loss of a subject that is not found; by default nothing is farther (2 + l1).
        compat: "rectifid" preprocesses as RectifID's code does, with two different resizings and normalisations for
            reference and image; to compare with its results only.
        device: Where the networks run.

    Raises:
        InvalidArgument: If options are outside their range or disagree.
        InvalidImage: If a reference cannot be read.
        NoSubjectFound: If a subject is not in its reference, or in an image with `on_missing="raise"`.
        MissingWeights: If networks are neither in the Hub's cache nor to be downloaded.

    Source: Sun et al., RectifID (2024), appendix C; Oquab et al., DINOv2 (2023); Minderer et al., OWL-ViT (2022).
    Not for people, whom `identity` compares, nor for things of irregular shape, such as plush toys.
    """

    name = "subject"
    extra = EXTRA
    missing_error = NoSubjectFound

    def __init__(
        self,
        reference: References,
        *,
        text: str | Sequence[str] | None = None,
        same_subject: bool = False,
        combine: str = "mean",
        l1: float = 0.0,
        network: str | Path | nn.Module = NETWORK,
        size: int = 224,
        detector: str | Path | Detector | None = DETECTOR,
        floor: float = 0.1,
        on_missing: str = "last",
        missing_penalty: float | None = None,
        compat: str | None = None,
        device: str = "cpu",
    ) -> None:
        one_of("combine", combine, ("mean", "best"))
        one_of("compat", compat, (None, "rectifid"))
        in_range("l1", l1, 0)
        count("size", size)
        in_range("floor", floor, 0, 1, ends="[]")
        subjects = read_subjects(reference, same_subject, "same_subject")
        named = texts(text, len(subjects))
        if detector is None and (len(subjects) > 1 or text is not None):
            what = f"{len(subjects)} subjects" if len(subjects) > 1 else f"text={text!r}"
            raise InvalidArgument(f"Got {what} and detector=None. Whole images are compared without; leave it out.")
        like = torch.zeros((), device=as_device(device))
        subjects = [[(name, as_needed([image[0]], _SEEN)[0][None]) for name, image in one] for one in subjects]
        images = [[image[0].to(like) for _, image in subject] for subject in subjects]
        super().__init__(images, on_missing, 2.0 + l1 if missing_penalty is None else missing_penalty, like)
        normalisation = IMAGENET
        if not isinstance(network, nn.Module):
            where = str(network)
            network, normalisation = load("AutoModel", where, "network"), read_normalisation(where)
        self._features = Features(network, size, normalisation, compat == "rectifid").to(device)
        if detector is not None and not isinstance(detector, Detector):
            detector = OwlViT(str(detector))
        self._detector: Detector | None = None if detector is None else adopt(detector.to(device))  # type: ignore[assignment]
        self._combine, self._l1, self._floor = combine, float(l1), floor
        self._subjects = [self._embed_references(*pair) for pair in zip(subjects, named, strict=True)]

    @torch.no_grad()
    def _embed_references(self, images: list[tuple[str, Tensor]], text: str | None) -> Reference:
        """Find and embed a subject in each of its images."""
        crops, queries = [], []
        for name, given in images:
            image = given.to(self._like)
            box = image.new_tensor([0, 0, image.shape[3], image.shape[2]])
            if self._detector is not None:
                query = self._detector.query(image, text)
                if query is None or not query.score >= self._floor:
                    score = "" if query is None else f"; the best place has {query.score:.2g}"
                    raise NoSubjectFound(
                        f"{text or 'A subject'!r} was not found in {name} with a score of at least {self._floor}"
                        f"{score}. Give another text=, crop the image and type detector=None, or type a lower floor=."
                    )
                box = query.box
                queries.append(F.normalize(query.embedding, dim=0))
            crops.append(self._features.crop_reference(image, box))
        embeddings = [self._features.embed(crop, reference=True) for crop in crops]
        return Reference(
            torch.cat(crops),
            torch.cat(embeddings),
            torch.stack(queries).mean(0) if queries else self._like.new_zeros(0),
        )

    def detect(self, image: Tensor) -> Detections:
        """Find the boxes that may be a subject; whole images without a detector."""
        if self._detector is None:
            whole = image.new_tensor([0, 0, image.shape[3], image.shape[2]]).expand(len(image), -1)
            sure = image.new_ones(len(image), 1)
            return Detections(torch.arange(len(image), device=image.device), whole, sure, sure > 0)
        boxes, scores = self._detector.find(image, torch.stack([one.query for one in self._subjects]))
        smallest = min(8.0, min(image.shape[-2:]) / 8)
        chosen = []
        for i in range(len(image)):
            found = candidates(boxes[i].cpu(), scores[i].cpu(), self._floor, smallest)
            chosen += [(i, n) for n in (found if self._count > 1 else found[:1])]
        index, place = torch.tensor(chosen, dtype=torch.long, device=image.device).view(-1, 2).T
        score = scores[index, :, place]
        return Detections(index, boxes[index, place], score, score >= self._floor)

    def distances(self, image: Tensor, index: Tensor, place: Tensor) -> Tensor:
        """Return the distances (M, S) of what is in boxes to each subject."""
        crops = self._features.crop(image, index, place)
        embeddings = self._features.embed(crops)
        return torch.stack([self._distance(crops, embeddings, one) for one in self._subjects], dim=1)

    def _distance(self, crops: Tensor, embeddings: Tensor, one: Reference) -> Tensor:
        pixels = embeddings.new_zeros(len(crops), len(one.crops))
        if self._l1:
            pixels = self._l1 * (crops[:, None] - one.crops).abs().flatten(2).mean(2)
        if self._combine == "best":
            return (1 - embeddings @ one.embeddings.T + pixels).amin(1)
        return 1 - embeddings @ F.normalize(one.embeddings.mean(0), dim=0) + pixels.mean(1)

    def center(self, image: Tensor, subject: int) -> Tensor:
        """Return the box of a subject in the middle."""
        height, width = image.shape[-2:]
        left, right = ((subject + share) / self._count for share in (0.15, 0.85))
        return image.new_tensor([left, 0.15, right, 0.85]) * image.new_tensor([width, height, width, height])

    def taken(self, place: Tensor, others: Sequence[Tensor]) -> bool:
        """Tell whether a box would be used twice."""
        return any(overlap(place, other) > SAME for other in others)


def texts(text: str | Sequence[str] | None, subjects: int) -> list[str | None]:
    """Return the text of each subject: the one for all, their own, or none.

    Raises:
        InvalidArgument: If there are not as many as subjects, or one is empty.
    """
    each: list[str | None] = [None] * subjects
    if text is not None:
        each = [*as_texts("text", text)] * (subjects if isinstance(text, str) else 1)
    if len(each) != subjects or any(one is not None and not (isinstance(one, str) and one.strip()) for one in each):
        raise InvalidArgument(
            f"Got text={text!r} for {subjects} subject{'s' * (subjects > 1)}. Expected one text for all, such as "
            "'a cat', or a list with one for each."
        )
    return each
