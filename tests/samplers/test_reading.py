"""Tables read off schedulers: those of the families, and refusals where there is none."""

import diffusers
import pytest
import torch

import guideflow as gf
import guideflow_diffusers as families
import references
from guideflow_diffusers.reading import AFFINE, read_schedule

TRAILING = {**references.NOISE, "timestep_spacing": "trailing"}
DDIM = {**TRAILING, "clip_sample": False, "set_alpha_to_one": False}


@pytest.mark.parametrize(
    ("scheduler", "options", "family"),
    [
        (diffusers.EulerDiscreteScheduler(**TRAILING), {}, families.turbo_schedule),
        (
            diffusers.EulerAncestralDiscreteScheduler(**TRAILING),
            {},
            lambda n: families.turbo_schedule(n, method="ancestral"),
        ),
        (diffusers.DDIMScheduler(**DDIM), {}, families.pcm_schedule),
        (diffusers.LCMScheduler(**references.NOISE), {}, families.lcm_schedule),
        (diffusers.TCDScheduler(**references.NOISE), {}, lambda n: families.pcm_schedule(n, grid="tcd")),
        (
            diffusers.TCDScheduler(**references.NOISE),
            {"eta": 0.3},
            lambda n: families.pcm_schedule(n, grid="tcd", eta=0.3),
        ),
    ],
)
@pytest.mark.parametrize("num_steps", [1, 4, 8])
def test_tables_are_those_of_the_families(scheduler, options, family, num_steps):
    found, expected = read_schedule(scheduler, num_steps, **options), family(num_steps)
    assert found.times == expected.times
    assert [d != 0 for d in found.noise] == [d != 0 for d in expected.noise]
    for column in ("state", "output", "noise", "init_scale"):
        assert getattr(found, column) == pytest.approx(getattr(expected, column), rel=2e-6, abs=1e-6)


def test_flow_in_closed_form():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True)
    schedule = read_schedule(scheduler, sigmas=[1.0, 0.5])
    assert schedule.times == (1000, 750)
    # x0 = z - sigma v, then z' = (1 - sigma') x0 + sigma' n
    assert schedule.state == pytest.approx((0.25, 1.0))
    assert schedule.output == pytest.approx((-0.25, -0.75))
    assert schedule.noise == pytest.approx((0.75, 0.0))


def test_the_scheduler_and_the_random_state_are_left_alone():
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**TRAILING)
    scheduler.set_timesteps(3)
    before, state = {name: repr(value) for name, value in vars(scheduler).items()}, torch.get_rng_state()
    read_schedule(scheduler, 5)
    assert {name: repr(value) for name, value in vars(scheduler).items()} == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "kind",
    [
        "PNDMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "UniPCMultistepScheduler",
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "LMSDiscreteScheduler",
        "IPNDMScheduler",
        "SASolverScheduler",
        "FlowMatchHeunDiscreteScheduler",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_steps_that_combine_several_outputs_are_refused(kind):
    with pytest.raises(gf.GuideflowError, match=f"Got {kind}, whose step is not affine.*EulerDiscreteScheduler"):
        read_schedule(getattr(diffusers, kind)(), 4)


def test_what_the_message_names_is_affine():
    for kind in AFFINE.split(", "):
        more = {"clip_sample": False} if kind in ("DDIMScheduler", "DDPMScheduler", "LCMScheduler") else {}
        assert len(read_schedule(getattr(diffusers, kind)(**more), 3)) == 3


@pytest.mark.parametrize("option", ["clip_sample", "thresholding"])
def test_clipping_is_refused_with_the_cure(option):
    scheduler = diffusers.DDIMScheduler(**{**DDIM, "clip_sample": False, option: True})
    with pytest.raises(gf.GuideflowError, match=f"from_config.*{option}=False"):
        read_schedule(scheduler, 2)


def test_an_offset_and_a_curve_are_refused():
    class Offset(diffusers.DDIMScheduler):
        def step(self, model_output, timestep, sample, return_dict=True):
            return (sample - model_output + 0.1,)

    class Curve(diffusers.DDIMScheduler):
        def step(self, model_output, timestep, sample, return_dict=True):
            return (sample - torch.tanh(model_output),)

    for kind in (Offset, Curve):
        with pytest.raises(gf.GuideflowError, match="not affine"):
            read_schedule(kind(clip_sample=False), 2)


def test_what_a_scheduler_does_not_take_is_named():
    with pytest.raises(gf.GuideflowError, match=r"DDIMScheduler\.set_timesteps does not take sigmas"):
        read_schedule(diffusers.DDIMScheduler(**DDIM), sigmas=[1.0])
    with pytest.raises(gf.GuideflowError, match=r"FlowMatchEulerDiscreteScheduler cannot be read: .*mu.*Expected"):
        read_schedule(diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), 4)
