"""How sure a number is: bootstrap intervals, and comparisons on the same jobs with the sign test beside."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guideflow._require import require
from guideflow.evaluation.folder import EXTRA

RESAMPLES = 1000
_MOST, _AT_ONCE = 2000, 2_000_000
CLUSTERS = 8
"""References are resampled where there are as many as this: pictures of one person go together. Else pictures are."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    Arguments:
        mean: The mean, nan of nothing.
        low: Lower end of the interval; nan where it cannot be told.
        high: Upper end.
        count: Of what the mean is.
    """

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Comparison:
    """Two configurations on the same jobs.

    Arguments:
        difference: Mean of the differences, with its interval; above 0, the first has more.
        wins: Jobs on which the first is better.
        losses: Jobs on which it is worse.
        ties: Jobs on which they are equal.
        p: Two-sided p-value of the sign test: how likely such unequal counts are if both are equally good.
    """

    difference: Estimate
    wins: int
    losses: int
    ties: int
    p: float


def estimate(values: Sequence[float], groups: Sequence[Hashable] = (), resamples: int = RESAMPLES) -> Estimate:
    """Estimate a mean with a bootstrap interval (bias-corrected and accelerated, by scipy).

    Arguments:
        values: Finite numbers, one for each picture.
        groups: What each belongs to, such as its reference. With at least `CLUSTERS` of them they are resampled as a
            whole, since pictures of one person are alike; otherwise each picture by itself.
        resamples: How many.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return Estimate(nan, nan, nan, 0)
    mean = float(numbers.mean())
    sums, counts = _sums(numbers, groups)
    if len(sums) < 2:
        return Estimate(mean, nan, nan, len(numbers))
    if np.ptp(sums / counts) == 0:
        return Estimate(mean, mean, mean, len(numbers))

    def ratio(a: Any, b: Any, axis: int = -1) -> Any:
        return a.sum(axis) / b.sum(axis)

    bootstrap = require("scipy.stats", extra=EXTRA).bootstrap
    few = len(sums) <= _MOST  # the correction leaves one out at a time, which takes its square
    for method in ("BCa", "percentile") if few else ("percentile",):  # the first has no answer for some tiny samples
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = bootstrap(
                (sums, counts),
                ratio,
                paired=True,
                n_resamples=resamples,
                method=method,
                batch=max(1, min(resamples, _AT_ONCE // len(sums))),
                rng=np.random.default_rng(0),
            ).confidence_interval
        if np.isfinite([found.low, found.high]).all():
            return Estimate(mean, float(found.low), float(found.high), len(numbers))
    return Estimate(mean, nan, nan, len(numbers))


def _sums(numbers: NDArray[np.float64], groups: Sequence[Hashable]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and count what is resampled together."""
    places = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    if len(places) < CLUSTERS:
        return numbers, np.ones_like(numbers)
    index = np.array([places[group] for group in groups])
    return np.bincount(index, numbers).astype(np.float64), np.bincount(index).astype(np.float64)


def compare(
    first: Sequence[float], second: Sequence[float], groups: Sequence[Hashable] = (), *, better: str = "higher"
) -> Comparison:
    """Compare two configurations job by job.

    Arguments:
        first: Numbers of the one, finite.
        second: Numbers of the other, on the same jobs in the same order.
        groups: As in `estimate`.
        better: "higher" or "lower".
    """
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    good = differences if better != "lower" else -differences
    wins, losses = int((good > 0).sum()), int((good < 0).sum())
    p = 1.0
    if wins + losses:
        p = float(require("scipy.stats", extra=EXTRA).binomtest(wins, wins + losses).pvalue)
    return Comparison(estimate(differences.tolist(), groups), wins, losses, len(good) - wins - losses, p)
