"""Which box is which subject: every subject gets at most one, and no box is used twice."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from guideflow.losses import detections

assign = partial(detections.assign, extra="subject")
"""Match boxes and subjects; see `guideflow.losses.detections.assign`."""

_SAME = 0.5
"""Overlap (intersection over union) from which two boxes are of one thing."""


def candidates(boxes: Tensor, scores: Tensor, floor: float, smallest: float, each: int = 3) -> list[int]:
    """Choose boxes that may be a subject: the best of every subject, without doubles.

    Arguments:
        boxes: (N, 4).
        scores: (S, N).
        floor: Score under which nothing is a subject.
        smallest: Side under which a box is too small to be looked at.
        each: Number of boxes for each subject.

    Returns:
        Positions in `boxes`, the best first.
    """
    best = scores.amax(0)
    usable = (best >= floor) & ((boxes[:, 2:] - boxes[:, :2]).amin(1) >= smallest)
    chosen: list[int] = []
    quota = [each] * len(scores)
    for n in torch.where(usable, best, -1.0).argsort(descending=True, stable=True).tolist():
        if not usable[n] or not any(quota):
            break
        wanted = [s for s, left in enumerate(quota) if left and scores[s, n] >= floor]
        if not wanted or any(overlap(boxes[n], boxes[m]) > _SAME for m in chosen):
            continue
        chosen.append(n)
        for s in wanted:
            quota[s] -= 1
    return chosen


def overlap(one: Tensor, other: Tensor) -> float:
    """Return the intersection over union of two boxes (4,)."""
    inside = (torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])).clamp(min=0).prod()
    union = (one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - inside
    return float(inside / union.clamp(min=1e-12))
