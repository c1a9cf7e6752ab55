"""The face in a reference photograph, and what of the photograph is kept for it."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from guideflow_identity.faces import FaceBackend
from guideflow_identity.search import SMALL, Found, search, smaller

_LARGEST = 4096
"""Longest side that is looked at; nothing finer than an aligned face is ever compared."""

_KEPT = 768
"""Longest side of what is kept: a third of it is the face, of which no recogniser looks at more."""

_FLAT = 0.45
"""Share of equal neighbours in a face from which on it is taken for drawn: photographs have up to 0.2, cartoons 0.6."""


class Reference(NamedTuple):
    """The face of a reference, and the image (1, 3, H, W) in which it is found again, exactly."""

    found: Found
    kept: Tensor


def find_reference(backend: FaceBackend, image: Tensor, floor: float, threshold: float, name: str) -> Reference | None:
    """Find the largest of the surest faces of an image (1, 3, H, W), upright or turned; None if there is none.

    Of a large photograph the surroundings of the face are cut out, and looked at in its place: they are all that is
    compared, and all that a saved run has to keep. What is turned is told by a warning, with the name of the image.
    """
    if (scale := _LARGEST / max(image.shape[-2:])) < 1:
        image = _whole_bytes(smaller(image, scale))
    if (found := search(backend, image, floor, threshold)) is None:
        return None
    best = (
        Reference(found, image) if max(image.shape[-2:]) <= SMALL else _around(backend, image, found, floor, threshold)
    )
    if best.found.turn:
        warnings.warn(
            f"The face in {name} was found upright only after a turn by {90 * best.found.turn} degrees "
            "counter-clockwise, and is taken so. Turn the image, if it is not meant to lie.",
            stacklevel=2,
        )
    if _flatness(best.found) > _FLAT:
        warnings.warn(
            f"The face in {name} looks drawn: most of it is of flat colours. The networks of identity know "
            "photographs, and say little about drawings. Give a photograph; for the bundled cartoons there is "
            "'avatars-identity'.",
            stacklevel=2,
        )
    return best


def _around(backend: FaceBackend, image: Tensor, found: Found, floor: float, threshold: float) -> Reference:
    """Keep what is around a face, if it is found there again; all of the image otherwise."""
    around, scale = found.image, min(1.0, _KEPT / max(found.image.shape[-2:]))
    if scale < 1:
        around = _whole_bytes(smaller(around, scale))
    kept = torch.rot90(around, -found.turn, (2, 3)).contiguous()
    again = search(backend, kept, floor, threshold)
    if again is not None and again.turn == found.turn:
        box, other = found.face.box[0] * scale, again.face.box[0]
        if float((box - other).abs().max()) < float((box[2:] - box[:2]).max()) / 2:
            return Reference(again, kept)
    return Reference(found, image)


def _whole_bytes(image: Tensor) -> Tensor:
    """Round an image to what a PNG holds."""
    return (image * 255).round() / 255


def _flatness(found: Found) -> float:
    """Return the share of neighbours, in the box of a face, of the same colour to half a grey level."""
    left, top, right, bottom = found.face.box[0].clamp(min=0).long().tolist()
    face = found.image[0, :, top:bottom, left:right]
    pairs = [face.diff(dim=axis).abs().amax(0) <= 0.5 / 255 for axis in (1, 2)]
    return sum(float(one.float().mean()) for one in pairs if one.numel()) / 2
