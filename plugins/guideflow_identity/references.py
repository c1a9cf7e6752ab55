"""Who is to be seen: reference pictures, grouped by person, and the faces in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.images import check_image, read_image
from guideflow_identity.faces import FaceBackend

Picture = str | Path | Tensor
"""Path of a picture, or a picture (1, 3, H, W) or (3, H, W) in [0, 1]."""

References = Picture | Sequence[Picture | Sequence[Picture]]
"""One picture; or a sequence with one entry for each person: a picture, or a sequence of pictures of that person."""


class NoFaceFound(InvalidImage):
    """No face was found where one is needed."""


@dataclass(frozen=True)
class Subject:
    """A person to be seen.

    Arguments:
        pictures: The pictures of the person, (3, H, W) each.
        descriptions: What the backend says of the face in each, (pictures, C).
        boxes: Where the face is in each, (pictures, 4) in pixels.
    """

    pictures: tuple[Tensor, ...]
    descriptions: Tensor
    boxes: Tensor


def group(reference: References, same_person: bool) -> list[list[Picture]]:
    """Return the pictures of each person.

    `"ann.png"` is one person, `["ann.png", "bob.png"]` are two, `[["ann1.png", "ann2.png"], "bob.png"]` are two of whom
    the first has two pictures, and `["ann1.png", "ann2.png"]` with `same_person` is one with two.

    Raises:
        InvalidArgument: If there is none, or lists are nested and `same_person` is set.
    """
    if isinstance(reference, str | Path | Tensor):
        return [[reference]]
    people = [[entry] if isinstance(entry, str | Path | Tensor) else list(entry) for entry in reference]
    if not people or not all(people):
        raise InvalidArgument(
            f"Got {'no reference' if not people else 'a person without pictures'}. Expected a picture, or a list with "
            "one entry for each person: reference=['ann.png', ['bob1.png', 'bob2.png']]."
        )
    if not same_person:
        return people
    if any(not isinstance(entry, str | Path | Tensor) for entry in reference):
        raise InvalidArgument(
            "Got lists within the list of references, and same_person=True. Expected one or the other: "
            "[['ann1.png', 'ann2.png']], or ['ann1.png', 'ann2.png'] with same_person=True."
        )
    return [[picture for person in people for picture in person]]


def meet(people: list[list[Picture]], backend: FaceBackend, threshold: float, floor: float) -> list[Subject]:
    """Find and describe the largest face of every picture.

    Raises:
        InvalidImage: If a picture cannot be read.
        NoFaceFound: If there is no face in one.
    """
    subjects = []
    for person in people:
        pictures, descriptions, boxes = [], [], []
        for i, given in enumerate(person):
            picture, name = _read(given, i)
            picture = picture.to(backend.template)
            faces = backend.find(picture, floor)
            if not len(faces):
                raise NoFaceFound(
                    f"No face was found in {name}, {picture.shape[3]} x {picture.shape[2]} pixels, with a score of at "
                    f"least {floor}. Give a picture that shows the face from the front and upright, or type a lower "
                    "floor=."
                )
            sure = faces[faces.score >= min(threshold, float(faces.score.max()))]
            area = (sure.box[:, 2:] - sure.box[:, :2]).prod(1)
            face = sure[area.argmax()[None]]
            with torch.no_grad():
                descriptions.append(backend.embed(picture, face.image, face.points))
            pictures.append(picture[0].float())
            boxes.append(face.box)
        subjects.append(Subject(tuple(pictures), torch.cat(descriptions), torch.cat(boxes)))
    return subjects


def _read(given: Picture, number: int) -> tuple[Tensor, str]:
    if not isinstance(given, Tensor):
        return read_image(given), str(given)
    picture = given[None] if given.dim() == 3 else given
    check_image(picture, what="reference")
    if len(picture) != 1:
        raise InvalidImage(
            f"Got a reference of {len(picture)} pictures. Expected one picture for each entry: `list(reference)` for "
            "as many people, `[list(reference)]` for as many pictures of one."
        )
    return picture.detach(), f"reference {number}"
