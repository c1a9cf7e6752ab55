"""Every family by name draws what the published pipeline draws with the published scheduler, end to end.

Same checkpoint on disk, same starting latents, prompts, noises and size.
"""

import functools

import pytest
import torch

import guideflow as gf
import guideflow_diffusers as families
import references
from pipelines import NEGATIVES, PeRFlowScheduler, RectifiedFlowScheduler, distance, draw, load, published

SINGLE, DOUBLE = (torch.float32, 1e-4), (torch.float64, 1e-8)


def diffusers_scheduler(kind, **config):
    import diffusers

    return getattr(diffusers, kind)(**references.NOISE, **config)


TRAILING = {"timestep_spacing": "trailing"}
EULER = functools.partial(diffusers_scheduler, "EulerDiscreteScheduler", **TRAILING)
DIRECT = functools.partial(diffusers_scheduler, "EulerDiscreteScheduler", **TRAILING, prediction_type="sample")
ANCESTRAL = functools.partial(diffusers_scheduler, "EulerAncestralDiscreteScheduler", **TRAILING)
DDIM = functools.partial(diffusers_scheduler, "DDIMScheduler", **TRAILING, clip_sample=False, set_alpha_to_one=False)
TCD = functools.partial(diffusers_scheduler, "TCDScheduler")
LCM = functools.partial(diffusers_scheduler, "LCMScheduler")

CASES = [
    # name, base, steps, options of the family, scheduler, options of the call, precision
    ("perflow", "sd15", (4, 6), {}, PeRFlowScheduler, {}, SINGLE),
    ("perflow-sd21", "sd21", (4, 8), {}, lambda: PeRFlowScheduler("velocity"), {}, DOUBLE),
    ("perflow-sdxl", "sdxl", (4, 6), {}, lambda: PeRFlowScheduler("ddim_eps"), {}, SINGLE),
    ("rectified-flow", "sd15", (1, 4), {}, RectifiedFlowScheduler, {}, DOUBLE),
    ("instaflow", "sd15", (1,), {}, RectifiedFlowScheduler, {}, DOUBLE),
    ("sd-turbo", "sd21", (1, 4), {}, EULER, {}, SINGLE),
    ("sd-turbo", "sd21", (1, 4), {"method": "ancestral"}, ANCESTRAL, {}, SINGLE),
    ("sdxl-turbo", "sdxl", (1, 4), {"image_size": 16}, ANCESTRAL, {}, SINGLE),
    ("pcm", "sd15", (2, 4), {}, DDIM, {}, SINGLE),
    ("pcm", "sd15", (2, 4), {"grid": "tcd", "eta": 0.3}, TCD, {"eta": 0.3}, SINGLE),
    ("pcm-sdxl", "sdxl", (2, 4), {}, DDIM, {}, SINGLE),
    ("lcm", "sd15", (1, 4), {}, LCM, {}, SINGLE),
    ("lcm", "sdxl", (1, 4), {}, LCM, {}, SINGLE),
    ("sdxl-lightning", "sdxl", (1,), {}, DIRECT, {}, SINGLE),
    ("sdxl-lightning", "sdxl", (2, 4), {}, EULER, {}, SINGLE),
    ("hyper-sd", "sd15", (1, 4), {}, DDIM, {}, SINGLE),
    ("hyper-sd", "sdxl", (1, 4), {"unified": True}, TCD, {"eta": 1.0}, SINGLE),
    ("dmd2-sdxl", "sdxl", (4,), {}, LCM, {"timesteps": [999, 749, 499, 249], "num_inference_steps": None}, SINGLE),
    ("dmd2-sdxl", "sdxl", (1,), {}, LCM, {"timesteps": [399], "num_inference_steps": None}, SINGLE),
    ("tcd-sd15", "sd15", (1, 4), {}, TCD, {"eta": 0.3}, SINGLE),
    ("tcd-sdxl", "sdxl", (2, 8), {"eta": 0.6}, TCD, {"eta": 0.6}, SINGLE),
]


@pytest.fixture(scope="module")
def pipe_of(tiny_folders):
    return functools.cache(lambda base, dtype: load(tiny_folders[base], dtype))


@pytest.mark.parametrize(
    ("name", "base", "steps", "own", "make", "call", "precision"),
    CASES,
    ids=[f"{c[0]}-{c[1]}-{i}" for i, c in enumerate(CASES)],
)
def test_picture_is_that_of_the_published_pipeline(
    tiny_folders, pipe_of, name, base, steps, own, make, call, precision
):
    dtype, tolerance = precision
    pipe = pipe_of(base, dtype)
    for num_steps, scale in zip(steps, (1.0, 3.0), strict=False):
        given = {"checkpoint": tiny_folders[base], "num_steps": num_steps, "guidance_scale": scale, **own}
        sampler = gf.load_sampler(name, dtype=str(dtype).removeprefix("torch."), **given)
        pipe.scheduler = make()
        negatives = NEGATIVES if scale > 1 else None
        options = {"num_inference_steps": num_steps, "guidance_scale": scale, "height": 16, "width": 16, **call}
        wanted = published(pipe, sampler, negatives=negatives, **options)
        assert distance(draw(sampler, negatives=negatives), wanted) < tolerance
        assert wanted.std() > 0.05


def test_every_family_is_compared():
    assert {case[0] for case in CASES} == set(families.FAMILIES)
