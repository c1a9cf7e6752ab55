"""Where the face of a photograph is, which may lie on its side, or be small in a large one."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from guideflow_identity.faces import FaceBackend, Faces
from guideflow_identity.geometry import similarity, warp

_ORDER = ((1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (4, 0), (2, 1), (2, 2), (2, 3), (4, 1), (4, 2), (4, 3))
"""In how many parts of a side, and turned by how many quarters, an image is looked at: the likeliest first."""

_PART = 512
"""No part is smaller."""

_LOOK = 640
"""Longest side of a part of a large photograph: detectors look at no more."""

SMALL = 1024
"""Up to this longest side an image is looked at as it is."""

_SURELY = 0.75
"""Score, aligned, from which on no other face is looked for."""

_BETTER = 0.1
"""By how much more has to speak for a turned face."""


_AROUND = 3.0
"""Side of what is cut out of a large photograph, in sides of the face."""


class Found(NamedTuple):
    """A face, the image it is in, by how many quarters that was turned, and how much of a face it is, aligned.

    Of a large photograph the image is the surroundings of the face, and `corner` where they begin in all of it, turned.
    The score is the detector's of the face cut out along its points: one whose points were guessed, because it is
    upside down, is none.
    """

    face: Faces
    image: Tensor
    corner: Tensor
    turn: int
    score: float

    @property
    def weight(self) -> float:
        """How much speaks for it."""
        return self.face.score.item() * self.score


def search(backend: FaceBackend, image: Tensor, floor: float, threshold: float) -> Found | None:
    """Find the largest of the surest faces of an image (1, 3, H, W), upright or turned; None if there is none.

    Photographs lose the tag that says how the camera was held, and a detector may take a face that lies on its side for
    another one. A large photograph is looked at as large as the detector needs it.
    """

    def sure(found: Found) -> bool:  # though its score may be low: aligned, it looks like a face
        return found.face.score.item() >= (floor + threshold) / 2 and found.score >= _SURELY

    best: Found | None = None
    longest, looked = max(image.shape[-2:]), dict[int, Tensor]()
    for parts, turn in _ORDER:
        if parts > 1 and longest < parts * _PART:
            continue
        if best is not None and sure(best):
            break
        if parts not in looked:
            scale = min(1.0, parts * _LOOK / longest) if longest > SMALL else 1.0
            looked[parts] = image if scale == 1 else smaller(image, scale)
        found = _look(backend, image, looked[parts], turn, parts, floor, threshold)
        if found is None:
            continue
        if best is None or sure(found) or found.weight > best.weight + (_BETTER if found.turn > best.turn == 0 else 0):
            best = found
    return best


def smaller(image: Tensor, scale: float) -> Tensor:
    """Shrink an image (1, 3, H, W), every pixel of which counts."""
    sides = [max(1, round(side * scale)) for side in image.shape[-2:]]
    return F.interpolate(image, sides, mode="bilinear", antialias=True)


def _look(
    backend: FaceBackend, image: Tensor, looked: Tensor, turn: int, parts: int, floor: float, threshold: float
) -> Found | None:
    """Look at an image in the size of `looked`, and at the face found there in its own."""
    faces = _find(backend, torch.rot90(looked, turn, (2, 3)), parts, floor)
    if not len(faces):
        return None
    sure = faces[faces.score >= min(threshold, float(faces.score.max()))]
    area = (sure.box[:, 2:] - sure.box[:, :2]).prod(1)
    face = sure[area.argmax()[None]]
    scale = max(image.shape[-2:]) / max(looked.shape[-2:])
    around, corner = _surroundings(image, turn, face.box[0] * scale)
    face = replace(face, box=face.box * scale - corner.repeat(2), points=face.points * scale - corner)
    side = backend.size / 2
    matrix = similarity(face.points, backend.template.to(face.points))
    matrix = torch.cat([matrix[..., :2], matrix[..., 2:] + side], dim=-1)  # with as much again around it
    again = backend.find(warp(around, face.image, matrix, 2 * backend.size), floor / 4)
    return Found(face, around, corner, turn, again.score.max().item() if len(again) else 0.0)


def _surroundings(image: Tensor, turn: int, box: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is around a box of an image that was turned, and where that begins; all of a small one."""
    if max(image.shape[-2:]) <= SMALL:
        return torch.rot90(image, turn, (2, 3)), torch.zeros_like(box[:2])
    height, width = image.shape[-2:]
    centre, half = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max()) * _AROUND / 2
    limits = (width, height) if turn % 2 == 0 else (height, width)
    (left, right), (top, bottom) = (
        (min(max(int(middle - half), 0), limit - 1), min(int(middle + half) + 1, limit))
        for middle, limit in zip(centre.tolist(), limits, strict=True)
    )
    rows, columns = (
        (slice(top, bottom), slice(left, right)),
        (slice(left, right), slice(width - bottom, width - top)),
        (slice(height - bottom, height - top), slice(width - right, width - left)),
        (slice(height - right, height - left), slice(top, bottom)),
    )[turn]
    return torch.rot90(image[..., rows, columns], turn, (2, 3)), box.new_tensor([left, top])


def _find(backend: FaceBackend, image: Tensor, parts: int, floor: float) -> Faces:
    """Find faces in an image, or in parts of it that overlap by a quarter: a small face is large in a part."""
    if parts == 1:
        return backend.find(image, floor)
    height, width = (-(-side // parts) for side in image.shape[-2:])
    tops, lefts = (
        [round(i * (whole - part) / parts) for i in range(parts + 1)]
        for whole, part in zip(image.shape[-2:], (height, width), strict=True)
    )
    found = list[Faces]()
    for top, left in ((top, left) for top in tops for left in lefts):  # together they would not stay in the cache
        faces = backend.find(image[..., top : top + height, left : left + width], floor)
        shift = faces.box.new_tensor([left, top])
        found.append(replace(faces, box=faces.box + shift.repeat(2), points=faces.points + shift))
    return Faces(*(torch.cat([getattr(one, field.name) for one in found]) for field in fields(Faces)))
