"""`subject`: distance to an animal or a thing in reference photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guideflow.errors import InvalidArgument
from guideflow.images import check_image
from guideflow.losses.base import Loss
from guideflow.losses.detections import FOUND, POLICIES
from guideflow.types import PerImage
from guideflow_subject.detector import Detector, OwlViT
from guideflow_subject.features import Features
from guideflow_subject.loading import load
from guideflow_subject.published import DETECTOR, NETWORK
from guideflow_subject.references import Known, References, group, meet, texts
from guideflow_subject.sights import Lookout


@dataclass(frozen=True)
class Outcome:
    """What the last call saw: for each picture, in order, and each subject.

    Arguments:
        status: "found", or how a missing subject was dealt with: "last", "center" or "skipped".
        box: Left, top, right, bottom of the place looked at in pixels, (B, S, 4); nan where skipped.
        distance: Distance to the subject there, (B, S); nan where skipped.
        score: The detector's score, (B, S); nan unless found.
    """

    status: tuple[tuple[str, ...], ...]
    box: Tensor
    distance: Tensor
    score: Tensor


class Subject(Loss):
    """Distance between the subjects in a picture and those in reference pictures.

        loss(x) = mean over subjects s of  d(crop(x, box s), crop(reference s))      if s was found,
                                           penalty + d(at the place assumed, if any)  otherwise
        d(a, b) = 1 - cos(f(a), f(b)) + l1 mean |a - b|

    Boxes are found without gradient in the clamped picture; cropping (ROI align) and describing have gradient. Crops
    are squares of `size` pixels, made alike for references and pictures. A subject that is not found costs more than
    any wrong one, so that losing it is never the best picture.

    Arguments:
        reference: A picture of the subject: a path, or a tensor (1, 3, H, W) or (3, H, W) in [0, 1]. For several
            subjects a list with one entry for each: a picture, or a list of pictures of that subject. Several subjects
            are matched with what is found so that the sum of distances is least, and no box is used twice.
        text: What the subject is, such as "a cat", to find it in the reference; for several a list. None: what the
            reference shows as a whole.
        same_subject: A flat list of pictures shows one subject.
        combine: With several pictures of a subject: "mean", distance to the mean of their features (and mean
            difference of pixels), or "best", to the nearest of them.
        l1: Weight of the difference of pixels: 10 for things of rigid shape (the paper's), 0 for animals.
        network: Name on the Hub, folder, or a module from pictures (M, 3, size, size), normalised as ImageNet's, to
            features (M, C).
        size: Side of the crops that the network sees.
        detector: Name on the Hub, folder, a `Detector`, or None to compare whole pictures.
        floor: Score in [0, 1] under which nothing is taken for a subject.
        on_missing: If a subject is not found in a picture: "last", look where it was last found in this picture, or
            skip; "center", look in the middle (several: in a row); "skip", no gradient for it; "raise".
        missing_penalty: Loss of a subject that is not found; by default nothing is farther (2 + l1).
        compat: "rectifid" preprocesses as RectifID's code does, with two different resizings and normalisations for
            reference and picture; to compare with its results only.
        device: Where the networks run.

    Raises:
        InvalidArgument: If options are outside their range or disagree.
        InvalidImage: If a reference cannot be read.
        NoSubjectFound: If a subject is not in its reference, or in a picture with `on_missing="raise"`.
        MissingWeights: If networks are neither in the Hub's cache nor to be downloaded.

    Source: Sun et al., RectifID (2024), appendix C; Oquab et al., DINOv2 (2023); Minderer et al., OWL-ViT (2022).
    Not for people, whom `identity` compares, nor for things of irregular shape, such as plush toys.
    """

    name = "subject"

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
        """Read the references and describe the subjects in them."""
        _among("combine", combine, ("mean", "best"))
        _among("on_missing", on_missing, POLICIES)
        _among("compat", compat, (None, "rectifid"))
        for name, value, low in (("l1", l1, 0), ("missing_penalty", missing_penalty, 0), ("size", size, 1)):
            if value is not None and not low <= value < float("inf"):
                raise InvalidArgument(f"Got {name}={value}. Expected a finite number of at least {low}.")
        if not 0 <= floor <= 1:
            raise InvalidArgument(f"Got floor={floor}. Expected a score in [0, 1].")
        subjects = group(reference, same_subject)
        named = texts(text, len(subjects))
        if detector is None and (len(subjects) > 1 or text is not None):
            what = f"{len(subjects)} subjects" if len(subjects) > 1 else f"text={text!r}"
            raise InvalidArgument(f"Got {what} and detector=None. Whole pictures are compared without; leave it out.")
        if not isinstance(network, nn.Module):
            network = load("AutoModel", str(network), "network")
        self._features = Features(network, size, compat == "rectifid").to(device)
        if detector is not None and not isinstance(detector, Detector):
            detector = OwlViT(str(detector))
        eyes = None if detector is None else detector.to(device).eval().requires_grad_(False)
        self._device, self._combine, self._l1 = torch.device(device), combine, float(l1)
        self._penalty = 2.0 + self._l1 if missing_penalty is None else float(missing_penalty)
        self._subjects = [
            meet(pictures, one, self._features, eyes, floor, device)
            for pictures, one in zip(subjects, named, strict=True)
        ]
        queries = [known.query for known in self._subjects if known.query is not None]
        asked = torch.stack(queries) if queries else torch.zeros(1, 0)
        self._lookout = Lookout(eyes, asked, self._distances, floor, on_missing)
        self._outcome: Outcome | None = None

    def __call__(self, image: Tensor) -> PerImage:
        """Return the mean distance to the subjects for each picture, from 0."""
        check_image(image)
        x = image.to(self._device, torch.float32)
        count = len(self._subjects)
        sights = self._lookout.look(x)
        distance = x.new_full((len(sights),), torch.nan)
        seen = [n for n, sight in enumerate(sights) if sight.box is not None]
        if seen:
            index = torch.tensor([sights[n].image for n in seen], device=x.device)
            boxes = torch.stack([box for n in seen if (box := sights[n].box) is not None])
            subject = torch.tensor([sights[n].subject for n in seen], device=x.device)
            found = self._distances(x, index, boxes).gather(1, subject[:, None])[:, 0]
            distance = distance.index_put((torch.tensor(seen, device=x.device),), found)
        penalty = x.new_tensor([0.0 if sight.status == FOUND else self._penalty for sight in sights])
        skipped = torch.tensor([sight.box is None for sight in sights], device=x.device)
        each = torch.where(skipped, 0, distance) + penalty
        nowhere = x.new_full((4,), torch.nan)
        self._outcome = Outcome(
            status=tuple(tuple(s.status for s in sights[i : i + count]) for i in range(0, len(sights), count)),
            box=torch.stack([nowhere if s.box is None else s.box for s in sights]).view(len(x), count, 4),
            distance=distance.detach().view(len(x), count),
            score=x.new_tensor([sight.score for sight in sights]).view(len(x), count),
        )
        # The second term is a gradient of zero for pictures in which there is nothing to look at.
        return each.view(len(x), count).mean(1) + 0 * x.flatten(1).sum(1)

    @property
    def outcome(self) -> Outcome | None:
        """What the last call saw; None before the first."""
        return self._outcome

    def forget(self) -> None:
        """Forget where subjects were last found, as if nothing had been looked at yet."""
        self._lookout.memory.places.clear()

    def references(self) -> tuple[Tensor, ...]:
        """Return the reference pictures, (3, H, W) each."""
        return tuple(picture for known in self._subjects for picture in known.pictures)

    def describe(self) -> str:
        """Return one line that says what is minimised."""
        count = len(self._subjects)
        return f"{self.name} ({count} subjects)" if count > 1 else self.name

    def _distances(self, image: Tensor, index: Tensor, boxes: Tensor) -> Tensor:
        """Distances (M, S) of what is in boxes (M, 4) of the pictures `index` (M,) to each subject."""
        crops = self._features.crop(image, index, boxes)
        described = self._features.describe(crops)
        return torch.stack([self._distance(crops, described, known) for known in self._subjects], dim=1)

    def _distance(self, crops: Tensor, described: Tensor, known: Known) -> Tensor:
        pixels = described.new_zeros(len(crops), len(known.crops))
        if self._l1:
            pixels = self._l1 * (crops[:, None] - known.crops).abs().flatten(2).mean(2)
        if self._combine == "best":
            return (1 - described @ known.features.T + pixels).amin(1)
        return 1 - described @ F.normalize(known.features.mean(0), dim=0) + pixels.mean(1)


def _among(name: str, given: object, known: Sequence[object]) -> None:
    if given not in known:
        raise InvalidArgument(f"Got {name}={given!r}. Expected one of: {', '.join(map(repr, known))}.")
