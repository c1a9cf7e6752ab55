"""Similarity transforms between points, and images cut out along them.

Coordinates are continuous and in pixels: an image of width W spans 0 to W, and its first pixel has its centre at 0.5.
Halving an image therefore halves its coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def similarity(source: Tensor, target: Tensor) -> Tensor:
    """Return the rotation, scaling and shift that best map one set of points to another.

    In the least-squares sense (Umeyama 1991 in two dimensions, without reflections):

        a = sum(s . t) / sum(s . s),    b = sum(s x t) / sum(s . s),    s and t about their means

    Arguments:
        source: Points (..., N, 2).
        target: Where they should come to lie, (..., N, 2).

    Returns:
        Matrices [[a, -b, x], [b, a, y]], (..., 2, 3). Points that coincide give the matrix that maps all to the mean.
    """
    mean_source, mean_target = source.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    s, t = source - mean_source, target - mean_target
    spread = s.square().sum((-1, -2)).clamp_min(1e-12)
    a = (s * t).sum((-1, -2)) / spread
    b = (s[..., 0] * t[..., 1] - s[..., 1] * t[..., 0]).sum(-1) / spread
    turn = torch.stack([torch.stack([a, -b], -1), torch.stack([b, a], -1)], -2)
    return torch.cat([turn, mean_target.transpose(-1, -2) - turn @ mean_source.transpose(-1, -2)], -1)


def apply(matrix: Tensor, points: Tensor) -> Tensor:
    """Map points (..., N, 2) by matrices (..., 2, 3)."""
    return points @ matrix[..., :2].transpose(-1, -2) + matrix[..., None, :, 2]


def invert(matrix: Tensor) -> Tensor:
    """Return the inverse of similarity transforms (..., 2, 3)."""
    a, b = matrix[..., 0, 0], matrix[..., 1, 0]
    norm = (a * a + b * b).clamp_min(1e-12)
    turn = torch.stack([torch.stack([a, b], -1), torch.stack([-b, a], -1)], -2) / norm[..., None, None]
    return torch.cat([turn, -turn @ matrix[..., 2:]], -1)


def square(boxes: Tensor, size: int, margin: float = 1.0) -> Tensor:
    """Return the transforms (M, 2, 3) that map the square about each box (M, 4) to an image of a side of `size`.

    The side of the square is the box's longer one times `margin`.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    scale = size / margin / (boxes[:, 2:] - boxes[:, :2]).amax(1).clamp_min(1e-6)
    zero = torch.zeros_like(scale)
    rows = [
        torch.stack([scale, zero, size / 2 - scale * centre[:, 0]], -1),
        torch.stack([zero, scale, size / 2 - scale * centre[:, 1]], -1),
    ]
    return torch.stack(rows, -2)


def warp(image: Tensor, index: Tensor, matrix: Tensor, size: int, antialias: bool = True) -> Tensor:
    """Cut squares (M, 3, size, size) out of the images `index` (M,) along similarity transforms (M, 2, 3).

    Bilinear, and differentiable in the images; outside the image is black. With `antialias` the image is halved before
    a cut that shrinks it, as often as it takes, so that every pixel counts; without, this is `cv2.warpAffine`, which
    skips pixels.
    """
    back = invert(matrix.to(image.dtype))
    levels = torch.zeros_like(index)
    if antialias:
        levels = back[:, :, 0].norm(dim=1).log2().round().clamp(0, 6).nan_to_num().long()
    axis = torch.arange(size, device=image.device, dtype=image.dtype) + 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    places = apply(back, torch.stack([x, y], -1).view(1, -1, 2)).view(-1, size, size, 2)
    cuts, order = [], []
    wanted = sorted(set(levels.tolist()))
    for level in range(wanted[-1] + 1 if wanted else 0):
        if level:
            image = F.avg_pool2d(image, 2, ceil_mode=True)
        extent = places.new_tensor([image.shape[-1], image.shape[-2]]) * 2**level
        for i in index[levels == level].unique().tolist():  # the cuts of an image as one: no copies of a large one
            which = ((levels == level) & (index == i)).nonzero()[:, 0]
            grid = (places[which] / extent * 2 - 1).view(1, -1, size, 2)
            cut = F.grid_sample(image[i, None], grid, mode="bilinear", align_corners=False)
            cuts.append(cut[0].unflatten(1, (-1, size)).transpose(0, 1))
            order.append(which)
    if not cuts:
        return image.new_zeros(0, image.shape[1], size, size)
    return torch.cat(cuts)[torch.cat(order).argsort()]
