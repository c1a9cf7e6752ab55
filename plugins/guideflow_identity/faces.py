"""What a face backend is, and what it finds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guideflow_identity.geometry import similarity, warp

_SOME = 128
"""Of the boxes of a crowd so many are compared with each other at once."""


@dataclass(frozen=True)
class Faces:
    """Faces found in a batch of images, the best of each image first.

    Arguments:
        image: Which image each face is in, (M,).
        score: How sure the detector is, (M,), in [0, 1].
        box: Left, top, right and bottom in pixels, (M, 4).
        points: Places of features that the backend aligns faces by, (M, P, 2) in pixels.
    """

    image: Tensor
    score: Tensor
    box: Tensor
    points: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, which: Tensor) -> Faces:
        return Faces(self.image[which], self.score[which], self.box[which], self.points[which])


class FaceBackend(nn.Module, ABC):
    """Finds faces and turns each into an embedding, between which a distance tells people apart.

    Attributes:
        size: Side of an aligned face.
        template: Where the features lie in an aligned face, (P, 2) in pixels.
        farthest: A distance that no two faces exceed.
        licence: Licence of the weights.
        antialias: Whether images are halved before a cut shrinks them.
        grid: Features are taken to this part of a pixel before a face is cut out, so that a change too small to be seen
            moves nothing, and what is differentiated is what is computed; 0 takes them as they are found.
    """

    size: int
    template: Tensor
    farthest: float = 2.0
    licence: str
    antialias: bool = True
    grid: float = 0.25

    @abstractmethod
    def find(self, image: Tensor, floor: float) -> Faces:
        """Find the faces of a score of at least `floor` in images (B, 3, H, W) in [0, 1], without gradient."""

    @abstractmethod
    def embed(self, chips: Tensor) -> Tensor:
        """Turn aligned faces (M, 3, size, size) into embeddings (M, C), with gradient."""

    @abstractmethod
    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the distances (M, N) between embeddings (M, C) and (N, C); 0 for equal ones."""

    def align(self, image: Tensor, index: Tensor, points: Tensor) -> Tensor:
        """Cut faces out so that their features (M, P, 2) come to lie on the template; (M, 3, size, size)."""
        if self.grid:
            points = (points / self.grid).round() * self.grid
        matrix = similarity(points.to(image.dtype), self.template.to(image))
        return warp(image, index, matrix, self.size, self.antialias)


def suppress(score: Tensor, box: Tensor, floor: float, overlap: float) -> tuple[Tensor, Tensor]:
    """Keep the best of boxes (B, N, 4) that overlap (non-maximum suppression), for each image by itself.

    Boxes whose intersection over union with a better one is above `overlap` are dropped: a face behind another's
    shoulder, or small within its box, is one of its own. Returns the images and the places in the input, (M,), of those
    that are kept, the best of each image first; a box that is not finite is none.
    """
    kept = []
    for i, (scores, boxes) in enumerate(zip(score.cpu(), box.cpu().float(), strict=True)):  # areas overflow in half
        left = ((scores >= floor) & boxes.isfinite().all(1)).nonzero()[:, 0]
        left = left[scores[left].argsort(descending=True, stable=True)]
        while len(left):  # the best some, so that a crowd of thousands takes as many matrices and not steps
            some, left = left[:_SOME], left[_SOME:]
            hides, free = _overlap(boxes[some], boxes[some], overlap), torch.ones(len(some), dtype=torch.bool)
            for k in range(len(some)):
                if free[k]:
                    free[k + 1 :] &= ~hides[k, k + 1 :]
            some = some[free]
            kept += [(i, k) for k in some.tolist()]
            left = left[~_overlap(boxes[some], boxes[left], overlap).any(0)]
    image, place = torch.tensor(kept, dtype=torch.long, device=score.device).view(-1, 2).T
    return image, place


def _overlap(one: Tensor, other: Tensor, most: float) -> Tensor:
    """Tell which of boxes (N, 4) and (M, 4) share more than `most` of their union, (N, M)."""
    one = one[:, None]
    shared = torch.minimum(one[..., 2:], other[:, 2:]) - torch.maximum(one[..., :2], other[:, :2])
    area, areas = ((each[..., 2:] - each[..., :2]).prod(-1) for each in (one, other))
    both = shared.clamp_min(0).prod(-1)
    return both > most * (area + areas - both)
