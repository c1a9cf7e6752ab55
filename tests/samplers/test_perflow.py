"""What PeRFlow promises about its windows, whatever the network."""

import functools
import itertools
import math

import pytest
import torch

import references
from guideflow.sampler import alpha_bar
from guideflow_diffusers.perflow import perflow_schedule

PREDICTIONS = ["diff_eps", "ddim_eps", "velocity"]


def signal(time):
    return alpha_bar()[max(int(time) - 1, 0)]


def walk(schedule, z, epsilons):
    """States at the start of each step and at the end, when the network gives the same in all of a window."""
    states = [z]
    for a, b, epsilon in zip(schedule.state, schedule.output, epsilons, strict=True):
        states.append(a * states[-1] + b * epsilon)
    return states


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("windows", [1, 2, 3, 4, 5, 7, 8])
def test_every_table_is_that_of_the_published_scheduler(prediction, windows):
    """Also where floats are cut off: 99 and 49 of twenty steps, and windows whose ends are no whole numbers."""
    for num_steps in [*range(windows, 41), 100, 499]:
        schedule = perflow_schedule(num_steps, prediction=prediction, windows=windows)
        times = references.perflow_times(num_steps, windows)
        assert schedule.times == tuple(times)
        for row, now, following in zip(schedule, times, [*times[1:], 0], strict=True):
            step = functools.partial(
                references.perflow_step, now=now, following=following, prediction=prediction, windows=windows
            )
            assert (row.state, row.output) == pytest.approx((step(1.0, 0.0), step(0.0, 1.0)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("pieces", [2, 5])
def test_subdividing_a_window_stays_on_its_line(prediction, pieces, draw):
    """As long as the network gives the same, more steps in a window end where one step does."""
    z, epsilons = draw(3), draw(4, 3)
    coarse = walk(perflow_schedule(4, prediction=prediction), z, epsilons)
    fine = walk(perflow_schedule(4 * pieces, prediction=prediction), z, epsilons.repeat_interleave(pieces, dim=0))
    torch.testing.assert_close(torch.stack(fine[::pieces]), torch.stack(coarse), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("windows", [1, 2, 4, 5])
def test_independent_noise_joins_the_ends_of_a_window(windows, draw):
    """diff_eps: z_s = g z_e + sqrt(1 - g^2) epsilon."""
    schedule = perflow_schedule(windows, windows=windows)
    bounds = (*schedule.times, 0.0)
    for k, (start, end) in enumerate(itertools.pairwise(bounds)):
        g = math.sqrt(signal(start) / signal(end))
        z_end, epsilon = draw(3), draw(3)
        z_start = g * z_end + math.sqrt(1 - g**2) * epsilon
        torch.testing.assert_close(schedule.state[k] * z_start + schedule.output[k] * epsilon, z_end)


@pytest.mark.parametrize("windows", [1, 2, 4, 5])
def test_one_noise_joins_the_ends_of_a_window(windows, draw):
    """ddim_eps: z_s and z_e are the same picture with the same noise, more and less of it."""
    schedule = perflow_schedule(windows, windows=windows, prediction="ddim_eps")
    picture, epsilon = draw(3), draw(3)
    for k, (start, end) in enumerate(itertools.pairwise((*schedule.times, 0.0))):
        z_start, z_end = (math.sqrt(signal(t)) * picture + math.sqrt(1 - signal(t)) * epsilon for t in (start, end))
        torch.testing.assert_close(schedule.state[k] * z_start + schedule.output[k] * epsilon, z_end)


@pytest.mark.parametrize("num_steps", [4, 5, 7, 8])
def test_a_velocity_goes_straight_from_noise_to_picture(num_steps, draw):
    noise, picture = draw(3), draw(3)
    schedule = perflow_schedule(num_steps, prediction="velocity")
    for z, t in zip(walk(schedule, noise, [noise - picture] * num_steps), (*schedule.times, 0.0), strict=True):
        torch.testing.assert_close(z, picture + t / 1000 * (noise - picture))
