"""What a layout asks for: which pixels and classes count, and how much."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from guideflow.errors import InvalidArgument
from guideflow.types import PerImage
from guideflow_segmentation.classes import Classes


class Target:
    """Compares logits with wanted classes.

    Arguments:
        chosen: Numbers of the classes that count.
        merge: All other classes are one, instead of being ignored.
        weights: Of each class, (classes,).
        ignore_index: Number of pixels that do not count.
    """

    def __init__(self, chosen: Sequence[int], merge: bool, weights: Tensor, ignore_index: int) -> None:
        rest = [number for number in range(len(weights)) if number not in set(chosen)]
        self._chosen, self._rest, self._merge = list(chosen), rest, merge and bool(rest)
        self._weights = weights.clone()
        if not self._merge:
            self._weights[rest] = 0
        self._ignore = ignore_index

    def counted(self, wanted: Tensor) -> Tensor:
        """Return the weight of each pixel (h, w) of a map of classes."""
        valid = wanted != self._ignore
        weights = self._weights.to(wanted.device)
        return torch.where(valid, weights[wanted.where(valid, 0)], 0.0)

    def require_any(self, wanted: Tensor, classes: Classes) -> None:
        """Refuse a layout of which nothing counts."""
        if not bool(self.counted(wanted).any()):
            there = [classes.name(c) for c in wanted[wanted != self._ignore].unique().tolist()]
            raise InvalidArgument(
                f"No pixel of the layout counts: there is {', '.join(there) or 'nothing but ignored pixels'} in it. "
                "Choose other labels, weights above 0, or others='merge'."
            )

    def cross_entropy(self, logits: Tensor, wanted: Tensor) -> PerImage:
        """Return the weighted mean cross-entropy (B,) of logits (B, classes, h, w) to a map of classes (h, w)."""
        weight = self.counted(wanted).to(logits.dtype)
        target = wanted.where(wanted != self._ignore, 0)
        if self._merge:
            # The probability of "any other class" is the sum of theirs.
            others = torch.logsumexp(logits[:, self._rest], dim=1, keepdim=True)
            logits = torch.cat([logits[:, self._chosen], others], dim=1)
            target = self._merged(target)
        each = F.cross_entropy(logits, target.expand(len(logits), -1, -1), reduction="none")
        # A reference in which nothing counts at this size has nothing to say, rather than nan.
        return (each * weight).flatten(1).sum(1) / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)

    def iou(self, seen: Tensor, wanted: Tensor) -> PerImage:
        """Return the mean intersection over union (B,) of maps of classes (B, h, w) with the wanted one (h, w)."""
        counts = self.counted(wanted) > 0
        if self._merge:
            seen, wanted = self._merged(seen), self._merged(wanted.where(wanted != self._ignore, 0))
        each = []
        for number in wanted[counts].unique().tolist():
            there, here = wanted == number, seen == number
            both = (there & here & counts).flatten(1).sum(1)
            either = ((there | here) & counts).flatten(1).sum(1)
            each.append(both / either)
        return torch.stack(each).mean(0) if each else torch.full((len(seen),), float("nan"), device=seen.device)

    def _merged(self, classes: Tensor) -> Tensor:
        """Renumber classes: those that count from 0 on, all others as one after them."""
        renumbered = torch.full((len(self._weights),), len(self._chosen), device=classes.device)
        renumbered[self._chosen] = torch.arange(len(self._chosen), device=classes.device)
        return renumbered[classes]
