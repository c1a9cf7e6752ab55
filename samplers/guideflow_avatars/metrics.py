"""Metrics of the avatars world, by networks that no loss uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor, nn

from guideflow._given import as_texts
from guideflow._require import require
from guideflow.losses.base import Loss
from guideflow.losses.networks import freeze
from guideflow.losses.vision import Preparation
from guideflow.metrics import Case, KernelDistance, LossMetric, Measured, Metric, measured, missed
from guideflow.types import PerImage
from guideflow_avatars import judges
from guideflow_avatars.identity import SIZE, AvatarsIdentity, load_recogniser
from guideflow_avatars.segmentation import FREE, PALETTE
from guideflow_segmentation import Segmentation

_SIZED = Preparation((SIZE, SIZE), crop=True)
_CLASSES = tuple(PALETTE)
SKIN, FEATURES = (0.05, 0.35), (0.004, 0.06)
"""Shares of a picture that skin, and eyes, brows and mouth, cover where there is a face, least and most. Avatars have
0.12 to 0.26 and 0.008 to 0.035."""
WHOLE, PIECES = 0.6, 8
"""Share of the skin that hangs together at least, and pieces that features fall into at most: of what dissolves into
noise, which may have as much of both, skin is in tatters and features are everywhere. Avatars have 0.77 and 4 to 7."""


@final
class IdentitySimilarity(LossMetric):
    """Likeness to the person in the reference: cosine by a recogniser that no loss uses.

        m(x) = cos(f(x), f(reference))

    f has another architecture, another seed and other training identities than the network behind `avatars-identity`.
    Two pictures of one person have about 0.94, unrelated people about 0. A picture counts as a face if the held-out
    segmentation network sees skin and features in it.

    Arguments:
        detect: Whether to look for a face first.
        device: Where the networks run.
    """

    name = "avatars-identity-similarity"

    def __init__(self, *, detect: bool = True, device: str = "cpu") -> None:
        self._network = freeze(load_recogniser(judges.FOLDER / "identity"), device)
        self._detect, self._device = detect, device

    def make(self, case: Case) -> Loss:
        """Embed the reference."""
        return AvatarsIdentity(case.reference, self._network, self._device)

    def values(self, loss: Any, images: Tensor) -> Tensor:
        """Return the cosines."""
        return super().values(loss, images.to(self._device))

    def __call__(self, cases: Sequence[Case]) -> Sequence[Measured]:
        """Measure the pictures that show a face."""
        found = super().__call__(cases)
        if not self._detect:
            return found
        seen = [face(case.image[None])[0] for case in cases]
        return [
            one._replace(detected=True) if there else missed("no face") for one, there in zip(found, seen, strict=True)
        ]

    def judges(self) -> nn.Module:
        """Return the recogniser: the detector only says whether to ask it."""
        return self._network


def face(images: Tensor) -> list[bool]:
    """Tell whether avatars (B, 3, H, W) in [0, 1] show a face: skin and features, to the held-out segmenter."""
    label = require("scipy.ndimage", extra="evaluate").label
    found = []
    for seen in judges.segment(_SIZED(images)):
        skin, features = ((seen == _CLASSES.index(name)).numpy() for name in ("skin", "features"))
        pieces, _ = label(skin)
        largest = np.bincount(pieces[skin]).max() if skin.any() else 0
        covered = SKIN[0] <= skin.mean() <= SKIN[1] and FEATURES[0] <= features.mean() <= FEATURES[1]
        found.append(bool(covered and largest >= WHOLE * skin.sum() and label(features)[1] <= PIECES))
    return found


@final
class PromptAccuracy(Metric):
    """Share of the attributes asked for by the prompt that the attribute classifier sees, in [0, 1].

    Arguments:
        attributes: Those that count, of background, colour, clothes, expression and the others of this world's words.
            Hair, skin and beard are the person's, and contradict the reference where a prompt names them.
    """

    name = "avatars-prompt-accuracy"
    needs: ClassVar[tuple[str, ...]] = ("prompt",)

    def __init__(self, attributes: Sequence[str] = ("background", "colour", "clothes", "expression")) -> None:
        self._attributes = tuple(as_texts("attributes", attributes))
        judges.check_attributes(self._attributes)

    def __call__(self, cases: Sequence[Case]) -> Sequence[Measured]:
        """Measure a batch."""
        if not cases:
            return []
        images = torch.cat([_SIZED(case.image[None]) for case in cases])
        values = judges.prompt_accuracy(images, [case.prompt for case in cases], self._attributes).tolist()
        return [measured(value, note="" if value == value else "the prompt asks for none of them") for value in values]

    def judges(self) -> nn.Module:
        """Return the classifier."""
        return judges.network("attributes")


class _HeldOutStyle(Loss):
    def __init__(self, reference: Tensor) -> None:
        self._reference = _SIZED(reference[None])

    def __call__(self, image: Tensor) -> PerImage:
        return judges.style_distance(_SIZED(image), self._reference)


@final
class StyleDistance(LossMetric):
    """Distance to the style of the reference: 1 - cosine of pooled features of the held-out style network."""

    name = "avatars-style-distance"
    better: ClassVar[str] = "lower"

    def make(self, case: Case) -> Loss:
        """Take the reference."""
        return _HeldOutStyle(case.reference)

    def values(self, loss: Any, images: Tensor) -> Tensor:
        """Return the distances."""
        found: Tensor = loss(images)
        return found

    def judges(self) -> nn.Module:
        """Return the style network."""
        return judges.network("style")


@final
class LayoutIou(LossMetric):
    """Overlap with the layout of the reference: intersection over union, mean over its classes, in [0, 1].

    The held-out segmentation network looks at the picture, and at the reference unless that is a layout drawn in the
    world's colours.
    """

    name = "avatars-iou"

    def make(self, case: Case) -> Loss:
        """Read the layout, or see it in the reference."""
        network, reference = judges.FOLDER / "segmentation", case.reference
        if is_layout(reference) and isinstance(case.target, str | Path):
            return Segmentation(case.target, network=network, colours=dict(PALETTE))
        return Segmentation(reference=reference, network=network)

    def values(self, loss: Any, images: Tensor) -> Tensor:
        """Return the overlaps."""
        found: Tensor = loss.iou(images)
        return found

    def judges(self) -> nn.Module:
        """Return the segmentation network."""
        return judges.segmenter().network


def is_layout(picture: Tensor) -> bool:
    """Tell whether a picture (3, H, W) in [0, 1] is a layout: nearly all of it in the colours of `PALETTE`, or free."""
    known = torch.tensor([list(bytes.fromhex(code[1:])) for code in (*PALETTE.values(), FREE)]) / 255
    distance = torch.cdist(picture.flatten(1).T, known).amin(1)
    return bool((distance < 0.02).float().mean() > 0.95)


class AttributeFeatures(nn.Module):
    """Pooled features of the attribute classifier, which no loss uses."""

    def __init__(self) -> None:
        super().__init__()
        self.network: Any = load_recogniser(judges.FOLDER / "attributes")

    def forward(self, image: Tensor) -> Tensor:
        """Return the features (B, d) of images (B, 3, 128, 128) in [0, 1]."""
        return self.network.resnet(image * 2 - 1).pooler_output.flatten(1)


def avatars_kid(real: str | Path | None = None, *, device: str = "cpu") -> KernelDistance:
    """Kernel distance (KID) between the pictures of a configuration and real avatars, in features that no loss uses.

        KID = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
        k(a, b) = (a.b / d + 1)^3

    Arguments:
        real: Folder of real avatars, such as renders; None compares with the unguided pictures of the same jobs, which
            tells how far guidance moves the set.
        device: Where the network runs.
    """
    made = KernelDistance(real, network=AttributeFeatures(), size=SIZE, device=device)
    made.name = "avatars-kid"
    return made
