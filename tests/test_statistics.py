"""Intervals and comparisons against what theory says of them."""

from math import isnan, sqrt

import numpy as np
import pytest
import torch

from guideflow.evaluation import compare, estimate
from guideflow.metrics.kid import shares


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = estimate(values.tolist())
    half = 1.96 * values.std(ddof=1) / sqrt(400)
    assert found.mean == pytest.approx(values.mean()) and found.count == 400
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert (found.high + found.low) / 2 == pytest.approx(values.mean(), abs=0.1 * half)


def test_pictures_of_one_person_count_as_one_where_there_are_many_people():
    people = np.random.default_rng(2).normal(0, 1, 50)
    values, groups = np.repeat(people, 20).tolist(), np.repeat(np.arange(50), 20).tolist()
    alone, together = estimate(values), estimate(values, groups)
    expected = 2 * 1.96 * people.std(ddof=1) / sqrt(50)
    assert together.high - together.low == pytest.approx(expected, rel=0.15)
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(sqrt(20), rel=0.15)
    few = estimate(values[:60], groups[:60])  # of three people nothing can be resampled
    assert few == estimate(values[:60])


def test_small_and_equal_samples():
    assert estimate([]).count == 0 and isnan(estimate([]).mean)
    assert estimate([2.0]).mean == 2.0 and isnan(estimate([2.0]).low)
    assert estimate([1.0] * 5) == estimate([1.0] * 5, "abcde") and estimate([1.0] * 5).low == 1.0
    two = estimate([0.0, 1.0])
    assert two.low <= 0.5 <= two.high


def test_many_values_take_little_memory_and_time():
    found = estimate(np.random.default_rng(0).random(50_000).tolist(), resamples=100)
    assert 0.49 < found.low < found.mean < found.high < 0.51


def test_the_sign_test_counts_jobs():
    found = compare([1.0] * 8 + [0.5], [0.0] * 8 + [0.5])
    assert (found.wins, found.losses, found.ties) == (8, 0, 1)
    assert found.p == pytest.approx(2 / 2**8) and found.difference.mean == pytest.approx(8 / 9)
    lower = compare([1.0, 2.0, 3.0], [2.0, 2.5, 1.0], better="lower")
    assert (lower.wins, lower.losses, lower.ties) == (2, 1, 0) and lower.p == 1.0
    assert compare([1.0], [1.0]).p == 1.0


def kid(x, y):
    """As Binkowski et al. write it."""

    def mean(a, b, unlike):
        k = (a @ b.T / a.shape[1] + 1) ** 3
        return ((k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) if unlike else k.mean()).item()

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def test_the_shares_of_a_kernel_distance_are_those_of_each_picture():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(40, 6, generator=generator, dtype=torch.float64) + shift for shift in (0.4, 0.0))
    found = shares(x, y)
    assert found.mean().item() == pytest.approx(kid(x, y), rel=1e-9)
    # To first order, what is lost where a picture is left out, by which jackknife intervals are made.
    without = (torch.cat([x[:i], x[i + 1 :]]) for i in range(len(x)))
    lost = torch.tensor([kid(x, y) - kid(rest, y) for rest in without], dtype=torch.float64)
    assert torch.corrcoef(torch.stack([lost, found]))[0, 1] > 0.999
    assert (39 * lost.std() / found.std()).item() == pytest.approx(1, abs=0.05)
