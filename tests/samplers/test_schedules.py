"""The tables by themselves: times, published numbers, gains, and what is refused."""

import pytest

import guideflow_diffusers as families
import references
from guideflow.errors import InvalidArgument
from guideflow_diffusers.steps import consistency_grid, reach, trailing_grid

EVERY_SCHEDULE = [
    families.perflow_schedule,
    families.rectified_flow_schedule,
    families.instaflow_schedule,
    families.turbo_schedule,
    families.pcm_schedule,
    families.lcm_schedule,
    families.lightning_schedule,
    families.hyper_sd_schedule,
]


# Times


def test_trailing_grid_is_that_of_every_scheduler():
    from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

    for kind in (DDIMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler):
        scheduler = kind(**references.NOISE, timestep_spacing="trailing")
        for num_steps in range(1, 51):
            scheduler.set_timesteps(num_steps)
            assert trailing_grid(num_steps) == tuple(scheduler.timesteps.tolist())


def test_consistency_grid_is_that_of_every_scheduler():
    from diffusers import LCMScheduler, TCDScheduler

    for kind in (LCMScheduler, TCDScheduler):
        scheduler = kind(**references.NOISE)
        for num_steps in range(1, 51):
            scheduler.set_timesteps(num_steps)
            assert consistency_grid(num_steps) == tuple(scheduler.timesteps.tolist())


@pytest.mark.parametrize(
    ("make", "times"),
    [
        (lambda: families.perflow_schedule(4), (1000, 750, 500, 250)),
        (lambda: families.perflow_schedule(5), (1000, 875, 750, 500, 250)),
        (lambda: families.perflow_schedule(6), (1000, 875, 750, 625, 500, 250)),
        (lambda: families.perflow_schedule(8), (1000, 875, 750, 625, 500, 375, 250, 125)),
        (lambda: families.perflow_schedule(9, windows=3), (1000, 888, 777, 666, 555, 444, 333, 222, 111)),
        (lambda: families.rectified_flow_schedule(8), (1000, 875, 750, 625, 500, 375, 250, 125)),
        (lambda: families.instaflow_schedule(), (1000,)),
        (lambda: families.turbo_schedule(8), (999, 874, 749, 624, 499, 374, 249, 124)),
        (lambda: families.turbo_schedule(3, method="sgm"), (999, 899, 799)),
        (lambda: families.pcm_schedule(2), (999, 499)),
        (lambda: families.pcm_schedule(8, grid="tcd"), (999, 879, 759, 639, 499, 379, 259, 139)),
        (lambda: families.lcm_schedule(4), (999, 759, 499, 259)),
        (lambda: families.lightning_schedule(1), (999,)),
        (lambda: families.hyper_sd_schedule(4), (999, 749, 499, 249)),
        (lambda: families.hyper_sd_schedule(4, unified=True), (999, 759, 499, 259)),
    ],
)
def test_times(make, times):
    schedule = make()
    assert schedule.times == times
    assert schedule.end_times == (*times[1:], 0)


# Published numbers

DDIM_STATE = (3.48579, 2.21445, 1.55965, 1.21625)


@pytest.mark.parametrize(
    ("schedule", "state", "output", "noise", "init_scale"),
    [
        (families.perflow_schedule(), DDIM_STATE, (-3.33927, -1.97580, -1.19687, -0.69230), (0,) * 4, 1),
        (
            families.perflow_schedule(prediction="ddim_eps"),
            DDIM_STATE,
            (-2.50638, -1.30094, -0.75584, -0.66376),
            (0,) * 4,
            1,
        ),
        (families.perflow_schedule(prediction="velocity"), (1,) * 4, (-0.25,) * 4, (0,) * 4, 1),
        (families.rectified_flow_schedule(), (1,) * 4, (0.25,) * 4, (0,) * 4, 1),
        (families.instaflow_schedule(), (1,), (1,), (0,), 1),
        (
            families.turbo_schedule(),
            (*DDIM_STATE[:3], 1.21677),
            (-2.50638, -1.30094, -0.75584, -0.69321),
            (0,) * 4,
            0.99767,
        ),
        (
            families.turbo_schedule(method="ancestral"),
            (*DDIM_STATE[:3], 1.21677),
            (-3.20639, -1.81501, -1.08069, -0.69321),
            (0.93263, 0.78073, 0.51441, 0),
            0.99767,
        ),
        (families.pcm_schedule(), DDIM_STATE, (-2.50638, -1.30094, -0.75584, -0.66376), (0,) * 4, 1),
        (families.lightning_schedule(1), (0,), (1,), (0,), 0.99767),
    ],
    ids=["perflow", "sdxl", "velocity", "2rf", "instaflow", "turbo", "ancestral", "pcm", "lightning"],
)
def test_table(schedule, state, output, noise, init_scale):
    assert schedule.state == pytest.approx(state, abs=6e-6)
    assert schedule.output == pytest.approx(output, abs=6e-6)
    assert schedule.noise == pytest.approx(noise, abs=6e-6)
    assert schedule.init_scale == pytest.approx(init_scale, abs=6e-6)


def test_relatives_share_their_tables():
    assert families.lightning_schedule(4) == families.turbo_schedule(4)
    assert families.hyper_sd_schedule(4) == families.pcm_schedule(4)
    assert families.instaflow_schedule() == families.rectified_flow_schedule(1)
    assert families.turbo_schedule(1, method="ancestral").output == families.turbo_schedule(1).output


# Gains


@pytest.mark.parametrize(
    ("schedule", "gain"),
    [
        (families.perflow_schedule(), (0.95797, 0.89223, 0.76740, 0.56920)),
        (families.perflow_schedule(prediction="ddim_eps"), (1,) * 4),
        (families.perflow_schedule(prediction="velocity"), (1,) * 4),
        (families.rectified_flow_schedule(), (1,) * 4),
        (families.instaflow_schedule(), (1,)),
        (families.turbo_schedule(), (1,) * 4),
        (families.pcm_schedule(), (1,) * 4),
        (families.lcm_schedule(), (1,) * 4),
        (families.lightning_schedule(1), (1,)),
        (families.hyper_sd_schedule(), (1,) * 4),
    ],
)
def test_gains(schedule, gain):
    assert schedule.gain == pytest.approx(gain, abs=6e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (families.perflow_schedule(), (0.95797, 0.89223, 0.76740, 0.56920)),
        (families.perflow_schedule(prediction="ddim_eps"), (0.71903, 0.58748, 0.48462, 0.54574)),
        (families.turbo_schedule(), (0.71903, 0.58748, 0.48462, 0.56971)),
        (families.turbo_schedule(method="ancestral"), (0.91985, 0.81962, 0.69291, 0.56971)),
        (families.pcm_schedule(), (0.71903, 0.58748, 0.48462, 0.54574)),
        (families.pcm_schedule(grid="tcd"), (0.70682, 0.60500, 0.47083, 0.56030)),
        (families.lcm_schedule(), (0.99767, 0.97354, 0.84990, 0.58397)),
        (families.lightning_schedule(), (0.71903, 0.58748, 0.48462, 0.56971)),
        (families.hyper_sd_schedule(), (0.71903, 0.58748, 0.48462, 0.54574)),
    ],
)
def test_reach_of_networks_that_predict_noise(schedule, expected):
    assert reach(schedule) == pytest.approx(expected, abs=6e-6)


def test_the_constant_of_the_published_script_is_the_gain_of_the_first_window():
    assert families.perflow_schedule().gain[0] == pytest.approx(0.95796674, abs=1e-7)


def test_every_step_of_a_window_has_the_gain_of_the_window():
    four, eight = (families.perflow_schedule(k).gain for k in (4, 8))
    assert eight == tuple(factor for factor in four for _ in range(2))


# What is refused


@pytest.mark.parametrize("make", EVERY_SCHEDULE)
def test_a_number_of_steps_that_makes_no_sense_is_refused(make):
    for num_steps in (0, -1):
        with pytest.raises(InvalidArgument, match="Expected"):
            make(num_steps)


@pytest.mark.parametrize(
    ("make", "cure"),
    [
        *((lambda k=k: families.perflow_schedule(k), "num_steps=4 or more") for k in (1, 2, 3)),
        (lambda: families.perflow_schedule(4, windows=5), "num_steps=5 or more"),
        (lambda: families.perflow_schedule(501), "from 1 to 500"),
        (lambda: families.perflow_schedule(4, windows=0), "at least 1"),
        (lambda: families.instaflow_schedule(2), "rectified-flow"),
        (lambda: families.turbo_schedule(5, method="sgm"), "from 1 to 4"),
        (lambda: families.lcm_schedule(51), "from 1 to 50"),
        (lambda: families.pcm_schedule(51, grid="tcd"), "from 1 to 50"),
        (lambda: families.pcm_schedule(1001), "from 1 to 1000"),
        (lambda: families.lightning_schedule(3), "1, 2, 4, 8"),
        (lambda: families.perflow_schedule(prediction="epsilon"), "'diff_eps', 'ddim_eps', 'velocity'"),
        (lambda: families.turbo_schedule(method="heun"), "'euler', 'ancestral', 'sgm'"),
        (lambda: families.pcm_schedule(grid="lcm"), "'ddim', 'tcd'"),
        (lambda: families.pcm_schedule(eta=1.5), "eta=0 is deterministic"),
        (lambda: families.hyper_sd_schedule(eta=-0.1), "0 to 1"),
    ],
)
def test_what_a_family_cannot_do_is_refused(make, cure):
    with pytest.raises(InvalidArgument, match=cure):
        make()
