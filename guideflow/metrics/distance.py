"""Distances of pictures in pixels: from the unguided one, and between seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch

from guideflow.metrics.base import Case, Measured, Metric, measured


@final
class Distance(Metric):
    """Root mean square difference of the picture from the unguided one of the same prompt and seed, in [0, 1].

    It describes, and is no merit by itself: a picture that does not change is not guided.
    """

    name = "distance"
    better: ClassVar[str] = "neither"
    needs: ClassVar[tuple[str, ...]] = ("unguided",)

    def __call__(self, cases: Sequence[Case]) -> Sequence[Measured]:
        """Measure picture by picture."""
        return [measured(float((case.image - case.unguided).square().mean().sqrt())) for case in cases]


@final
class Diversity(Metric):
    """Root mean square difference between pictures of one reference and prompt that differ in the seed, in [0, 1].

        d(x_i) = mean over j != i of  rms(x_i - x_j)

    Guidance that pulls all seeds to one picture has little of it.
    """

    name = "diversity"
    of_set: ClassVar[bool] = True

    def __call__(self, cases: Sequence[Case]) -> Sequence[Measured]:
        """Measure each picture against those of other seeds in its configuration."""
        groups: dict[tuple[str, str, str], list[int]] = {}
        for i, case in enumerate(cases):
            groups.setdefault((case.config, case.about, case.prompt), []).append(i)
        found = [Measured(note="one seed only")] * len(cases)
        for rows in groups.values():
            if len(rows) < 2:
                continue
            images = torch.stack([cases[i].image for i in rows]).flatten(1).double()
            distance = torch.cdist(images, images, compute_mode="donot_use_mm_for_euclid_dist")
            mean = distance.sum(1) / (len(rows) - 1) / images.shape[1] ** 0.5
            for i, value in zip(rows, mean.tolist(), strict=True):
                found[i] = measured(value)
        return found
