"""What is to be seen: reference pictures, grouped by subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.images import check_image, read_image
from guideflow_subject.detector import Detector
from guideflow_subject.features import Features
from guideflow_subject.sights import NoSubjectFound

Picture = str | Path | Tensor
"""Path of a picture, or a picture (1, 3, H, W) or (3, H, W) in [0, 1]."""

References = Picture | Sequence[Picture | Sequence[Picture]]
"""One picture; or a sequence with one entry for each subject: a picture, or a sequence of pictures of that subject."""


@dataclass(frozen=True)
class Known:
    """A subject to be seen.

    Arguments:
        pictures: The pictures of it, (3, H, W) each.
        boxes: Where it is in each, (pictures, 4) in pixels.
        crops: What it looks like, (pictures, 3, size, size).
        features: What the network says of that, unit norm, (pictures, C).
        query: What the detector looks for, (D,); None without a detector.
    """

    pictures: tuple[Tensor, ...]
    boxes: Tensor
    crops: Tensor
    features: Tensor
    query: Tensor | None


def group(reference: References, same_subject: bool) -> list[list[Picture]]:
    """Return the pictures of each subject.

    `"cat.png"` is one subject, `["cat.png", "dog.png"]` are two, `[["cat1.png", "cat2.png"], "dog.png"]` are two of
    which the first has two pictures, and `["cat1.png", "cat2.png"]` with `same_subject` is one with two.

    Raises:
        InvalidArgument: If there is none, or lists are nested and `same_subject` is set.
    """
    if isinstance(reference, str | Path | Tensor):
        return [[reference]]
    each: list[list[Picture]] = [
        [entry] if isinstance(entry, str | Path | Tensor) else list(entry) for entry in reference
    ]
    if not each or not all(each):
        raise InvalidArgument(
            f"Got {'no reference' if not each else 'a subject without pictures'}. Expected a picture, or a list with "
            "one entry for each subject: reference=['cat.png', ['dog1.png', 'dog2.png']]."
        )
    if not same_subject:
        return each
    if any(not isinstance(entry, str | Path | Tensor) for entry in reference):
        raise InvalidArgument(
            "Got lists within the list of references, and same_subject=True. Expected one or the other: "
            "[['cat1.png', 'cat2.png']], or ['cat1.png', 'cat2.png'] with same_subject=True."
        )
    return [[picture for subject in each for picture in subject]]


def texts(text: str | Sequence[str] | None, subjects: int) -> list[str | None]:
    """Return the text of each subject: the one for all, their own, or none.

    Raises:
        InvalidArgument: If there are not as many as subjects, or one is empty.
    """
    each = [text] * subjects if text is None or isinstance(text, str) else list(text)
    if len(each) != subjects or any(one is not None and not (isinstance(one, str) and one.strip()) for one in each):
        raise InvalidArgument(
            f"Got text={text!r} for {subjects} subject{'s' * (subjects > 1)}. Expected one text for all, such as "
            "'a cat', or a list with one for each."
        )
    return each


@torch.no_grad()
def meet(
    pictures: list[Picture], text: str | None, features: Features, detector: Detector | None, floor: float, device: str
) -> Known:
    """Find and describe a subject in each of its pictures.

    Raises:
        InvalidImage: If a picture cannot be read.
        NoSubjectFound: If the subject is not found in one.
    """
    read, boxes, crops, described, queries = [], [], [], [], []
    for i, given in enumerate(pictures):
        picture, name = _read(given, i)
        picture = picture.float().to(device)
        height, width = picture.shape[-2:]
        box = picture.new_tensor([0, 0, width, height])
        if detector is not None:
            seen = detector.describe(picture, text)
            if seen is None or not seen.score >= floor:
                score = "" if seen is None else f"; the best place has {seen.score:.2g}"
                raise NoSubjectFound(
                    f"{text or 'A subject'!r} was not found in {name} with a score of at least {floor}{score}. Give "
                    "another text=, crop the picture and type detector=None, or type a lower floor=."
                )
            box = seen.box
            queries.append(torch.nn.functional.normalize(seen.query, dim=0))
        crop = features.crop_reference(picture, box)
        read.append(picture[0])
        boxes.append(box)
        crops.append(crop)
        described.append(features.describe(crop, reference=True))
    query = torch.stack(queries).mean(0) if queries else None
    return Known(tuple(read), torch.stack(boxes), torch.cat(crops), torch.cat(described), query)


def _read(given: Picture, number: int) -> tuple[Tensor, str]:
    if not isinstance(given, Tensor):
        return read_image(given), str(given)
    picture = given[None] if given.dim() == 3 else given
    check_image(picture, what="reference")
    if len(picture) != 1:
        raise InvalidImage(
            f"Got a reference of {len(picture)} pictures. Expected one picture for each entry: `list(reference)` for "
            "as many subjects, `[list(reference)]` for as many pictures of one."
        )
    return picture.detach(), f"reference {number}"
