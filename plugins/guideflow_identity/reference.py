"""The face in a reference photograph, which may lie on its side, or be small in a large one."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from guideflow_identity.faces import FaceBackend, Faces
from guideflow_identity.geometry import similarity, warp

_LARGEST = 4096
"""Longest side that is looked at; nothing finer than an aligned face is ever compared."""

_ORDER = ((1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (4, 0), (2, 1), (2, 2), (2, 3), (4, 1), (4, 2), (4, 3))
"""In how many parts of a side, and turned by how many quarters, an image is looked at: the likeliest first."""

_PART = 512
"""No part is smaller."""

_FLAT = 0.45
"""Share of equal neighbours in a face from which on it is taken for drawn: photographs have up to 0.2, cartoons 0.6."""

_SURELY = 0.75
_BETTER = 0.2


class Found(NamedTuple):
    """A face, the image it was found in, by how many quarters that was turned, and how much of a face it is, aligned.

    The last is the detector's score of the face cut out along its points: one whose points were guessed, because it is
    upside down, is none.
    """

    face: Faces
    image: Tensor
    turn: int
    score: float


def find_reference(backend: FaceBackend, image: Tensor, floor: float, threshold: float, name: str) -> Found | None:
    """Find the largest of the surest faces of an image (1, 3, H, W), upright or turned; None if there is none.

    Photographs lose the tag that says how the camera was held, and a detector may take a face that lies on its side for
    another one. What is turned is told by a warning, with the name of the image.
    """
    if (scale := _LARGEST / max(image.shape[-2:])) < 1:
        image = F.interpolate(image, scale_factor=scale, mode="bilinear", antialias=True)
    best: Found | None = None
    for parts, turn in _ORDER:
        if parts > 1 and max(image.shape[-2:]) < parts * _PART:
            continue
        if best is not None and best.face.score.item() >= threshold and (turn == 0 or best.score >= _SURELY):
            break
        found = _look(backend, image, turn, parts, floor, threshold)
        if found is not None and (best is None or found.score > best.score + (0 if best.turn else _BETTER)):
            best = found
    if best is not None and best.turn:
        warnings.warn(
            f"The face in {name} was found upright only after a turn by {90 * best.turn} degrees counter-clockwise, "
            "and is taken so. Turn the image, if it is not meant to lie.",
            stacklevel=2,
        )
    if best is not None and _flatness(best) > _FLAT:
        warnings.warn(
            f"The face in {name} looks drawn: most of it is of flat colours. The networks of identity know "
            "photographs, and say little about drawings. Give a photograph; for the bundled cartoons there is "
            "'avatars-identity'.",
            stacklevel=2,
        )
    return best


def _flatness(found: Found) -> float:
    """Return the share of neighbours, in the box of a face, of the same colour to half a grey level."""
    left, top, right, bottom = found.face.box[0].clamp(min=0).long().tolist()
    face = found.image[0, :, top:bottom, left:right]
    pairs = [face.diff(dim=axis).abs().amax(0) <= 0.5 / 255 for axis in (1, 2)]
    return sum(float(one.float().mean()) for one in pairs if one.numel()) / 2


def _look(backend: FaceBackend, image: Tensor, turn: int, parts: int, floor: float, threshold: float) -> Found | None:
    image = torch.rot90(image, turn, (2, 3))
    faces = _find(backend, image, parts, floor)
    if not len(faces):
        return None
    sure = faces[faces.score >= min(threshold, float(faces.score.max()))]
    area = (sure.box[:, 2:] - sure.box[:, :2]).prod(1)
    face = sure[area.argmax()[None]]
    side = backend.size / 2
    matrix = similarity(face.points, backend.template.to(face.points))
    matrix = torch.cat([matrix[..., :2], matrix[..., 2:] + side], dim=-1)  # with as much again around it
    again = backend.find(warp(image, face.image, matrix, 2 * backend.size), floor / 4)
    return Found(face, image, turn, again.score.max().item() if len(again) else 0.0)


def _find(backend: FaceBackend, image: Tensor, parts: int, floor: float) -> Faces:
    """Find faces in an image, or in parts of it that overlap by a quarter: a small face is large in a part."""
    if parts == 1:
        return backend.find(image, floor)
    height, width = (-(-side // parts) for side in image.shape[-2:])
    tops, lefts = (
        [round(i * (whole - part) / parts) for i in range(parts + 1)]
        for whole, part in zip(image.shape[-2:], (height, width), strict=True)
    )
    places = [(top, left) for top in tops for left in lefts]
    tiles = torch.cat([image[..., top : top + height, left : left + width] for top, left in places])
    found = backend.find(tiles, floor)
    shift = found.box.new_tensor([[left, top] for top, left in places])[found.image]
    box, points = found.box + shift.repeat(1, 2), found.points + shift[:, None]
    return Faces(torch.zeros_like(found.image), found.score, box, points)
