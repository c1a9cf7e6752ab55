"""What a face backend is, and what it finds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guideflow_identity.geometry import similarity, warp


@dataclass(frozen=True)
class Faces:
    """Faces found in a batch of pictures, the best of each picture first.

    Arguments:
        image: Which picture each face is in, (M,).
        score: How sure the detector is, (M,), in [0, 1].
        box: Left, top, right and bottom in pixels, (M, 4).
        points: Places of features that the backend aligns faces by, (M, P, 2) in pixels.
    """

    image: Tensor
    score: Tensor
    box: Tensor
    points: Tensor

    def __len__(self) -> int:
        """Return the number of faces."""
        return len(self.image)

    def __getitem__(self, which: Tensor) -> Faces:
        """Return some of the faces."""
        return Faces(self.image[which], self.score[which], self.box[which], self.points[which])


class FaceBackend(nn.Module, ABC):
    """Finds faces and turns each into numbers, between which a distance tells people apart.

    Attributes:
        size: Side of an aligned face.
        template: Where the features lie in an aligned face, (P, 2) in pixels.
        farthest: A distance that no two faces exceed.
        licence: Licence of the weights.
        antialias: Whether pictures are halved before a cut shrinks them.
    """

    size: int
    template: Tensor
    farthest: float = 2.0
    licence: str
    antialias: bool = True

    @abstractmethod
    def find(self, image: Tensor, floor: float) -> Faces:
        """Find the faces of a score of at least `floor` in pictures (B, 3, H, W) in [0, 1], without gradient."""

    @abstractmethod
    def describe(self, chips: Tensor) -> Tensor:
        """Turn aligned faces (M, 3, size, size) into numbers (M, C), with gradient."""

    @abstractmethod
    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the distances (M, N) between descriptions (M, C) and (N, C); 0 for equal ones."""

    def align(self, image: Tensor, index: Tensor, points: Tensor) -> Tensor:
        """Cut faces out so that their features (M, P, 2) come to lie on the template; (M, 3, size, size).

        Features are taken to a quarter of a pixel: a change too small to be seen then moves nothing, and what is
        differentiated is what is computed.
        """
        points = (points * 4).round() / 4
        matrix = similarity(points.to(image.dtype), self.template.to(image))
        return warp(image, index, matrix, self.size, self.antialias)

    def embed(self, image: Tensor, index: Tensor, points: Tensor) -> Tensor:
        """Align and describe faces, with gradient to the pictures; (M, C)."""
        return self.describe(self.align(image, index, points))


def suppress(score: Tensor, box: Tensor, overlap: float, limit: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the best of boxes that overlap (non-maximum suppression), for each picture by itself.

    Arguments:
        score: (B, N).
        box: (B, N, 4).
        overlap: Boxes that share more than this part of the smaller one's area with a better one are dropped.
        limit: Only so many of the best boxes of a picture are looked at.

    Returns:
        The best boxes' places (B, L) in the input, best first, their scores (B, L), and whether each is kept (B, L).
    """
    score, place = score.topk(min(limit, score.shape[1]), dim=1)
    box = box.gather(1, place[..., None].expand(-1, -1, 4))
    top_left = torch.maximum(box[:, :, None, :2], box[:, None, :, :2])
    bottom_right = torch.minimum(box[:, :, None, 2:], box[:, None, :, 2:])
    shared = (bottom_right - top_left).clamp_min(0).prod(-1)
    area = (box[..., 2:] - box[..., :2]).prod(-1)
    clash = shared > overlap * torch.minimum(area[:, :, None], area[:, None])
    kept = torch.ones_like(score, dtype=torch.bool)
    for i in range(1, score.shape[1]):  # on the device: nothing waits for a number
        kept[:, i] = ~(clash[:, i, :i] & kept[:, :i]).any(1)
    return place, score, kept
