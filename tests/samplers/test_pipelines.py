"""Samplers made of loaded pipelines draw what the pipelines draw, with every scheduler whose steps are affine."""

import dataclasses

import pytest
import torch

import tiny
from guideflow_diffusers import from_pipeline
from guideflow_diffusers.flux import pack, unpack
from pipelines import NEGATIVES, PeRFlowScheduler, change_scheduler, distance, draw, load, published

SINGLE, DOUBLE = (torch.float32, 1e-4), (torch.float64, 1e-8)
TRAILING = {"timestep_spacing": "trailing"}
# Scheduler, its options, those of the call; the last column where everything is computed in float64.
CASES = [
    ("EulerDiscreteScheduler", TRAILING, {}, SINGLE),
    ("EulerDiscreteScheduler", {}, {}, SINGLE),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, {}, SINGLE),
    ("EulerAncestralDiscreteScheduler", TRAILING, {}, SINGLE),
    ("EulerAncestralDiscreteScheduler", {"prediction_type": "v_prediction"}, {}, SINGLE),
    ("DPMSolverMultistepScheduler", {"solver_order": 1}, {}, SINGLE),
    ("DDIMScheduler", TRAILING, {}, DOUBLE),
    ("DDIMScheduler", {"prediction_type": "v_prediction"}, {}, DOUBLE),
    ("DDIMScheduler", TRAILING, {"eta": 0.4}, DOUBLE),
    ("DDPMScheduler", {}, {}, DOUBLE),
    ("LCMScheduler", {}, {}, DOUBLE),
    ("LCMScheduler", {}, {"timesteps": [999, 759, 339]}, DOUBLE),
    ("TCDScheduler", {}, {}, DOUBLE),
    ("TCDScheduler", {}, {"eta": 0.3}, DOUBLE),
]
IDS = ["-".join([kind, *map(str, (config | call).values())]) for kind, config, call, _ in CASES]


@pytest.fixture(scope="module")
def pipe_of(tiny_folders):
    """A pipeline by base and dtype, read from disk once; tests set its scheduler, and nothing else."""
    loaded = {}

    def get(base, dtype):
        if (base, dtype) not in loaded:
            loaded[base, dtype] = load(tiny_folders[base], dtype)
        return loaded[base, dtype]

    return get


@pytest.mark.parametrize(("kind", "config", "call", "precision"), CASES, ids=IDS)
@pytest.mark.parametrize("base", ["sd15", "sdxl"])
def test_picture_is_that_of_the_pipeline(pipe_of, base, kind, config, call, precision):
    dtype, tolerance = precision
    pipe = pipe_of(base, dtype)
    change_scheduler(pipe, kind, **{"clip_sample": False, **config})
    for steps, scale in ((1, 0.0), (4, 3.0)):
        options = {**({} if "timesteps" in call else {"num_inference_steps": steps}), "guidance_scale": scale, **call}
        sampler = from_pipeline(pipe, **options)
        negatives = NEGATIVES if scale > 1 else None
        wanted = published(pipe, sampler, negatives=negatives, **options)
        assert distance(draw(sampler, negatives=negatives), wanted) < tolerance
        assert wanted.std() > 0.05


@pytest.mark.parametrize("base", ["sd21", "sdxl"])
def test_defaults_are_the_pipelines(pipe_of, base):
    pipe = pipe_of(base, torch.float64)
    change_scheduler(pipe, "DDIMScheduler", clip_sample=False)
    sampler = from_pipeline(pipe)
    assert sampler.num_steps == 50
    assert sampler.guidance_scale == (5.0 if base == "sdxl" else 7.5)
    assert distance(draw(sampler, negatives=None), published(pipe, sampler, negatives=None)) < 1e-8


@pytest.mark.parametrize("base", ["sd15", "sdxl"])
def test_other_sizes(pipe_of, base):
    pipe = pipe_of(base, torch.float64)
    change_scheduler(pipe, "DDIMScheduler", clip_sample=False)
    options = {"height": 24, "width": 40, "num_inference_steps": 2}
    sampler = from_pipeline(pipe, **options)
    assert sampler.image_size == (24, 40)
    assert distance(draw(sampler), published(pipe, sampler, **options)) < 1e-8


@pytest.mark.parametrize("scale", [1.0, 8.5])
def test_guidance_as_an_embedding(tiny_folders, scale):
    import diffusers

    parts = load(tiny_folders["sd15"], torch.float64).components
    unet = diffusers.UNet2DConditionModel.from_pretrained(tiny_folders["full_lcm"] / "unet").to(torch.float64)
    pipe = diffusers.LatentConsistencyModelPipeline(**{**parts, "unet": unet}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    change_scheduler(pipe, "LCMScheduler", clip_sample=False)
    options = {"guidance_scale": scale, "original_inference_steps": 50}
    sampler = from_pipeline(pipe, guidance_scale=scale)
    assert sampler.num_steps == 4
    assert distance(draw(sampler, negatives=None), published(pipe, sampler, negatives=None, **options)) < 1e-6


def test_a_scheduler_of_the_users_own(tiny_folders):
    pipe = load(tiny_folders["sd15"], torch.float64)
    pipe.scheduler = PeRFlowScheduler()
    options = {"num_inference_steps": 6, "guidance_scale": 3.0}
    sampler = from_pipeline(pipe, **options)
    assert distance(draw(sampler), published(pipe, sampler, **options)) < 1e-8


def test_the_comparison_sees_small_mistakes(pipe_of):
    pipe = pipe_of("sdxl", torch.float64)
    change_scheduler(pipe, "TCDScheduler", clip_sample=False)
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "eta": 0.3}
    sampler = from_pipeline(pipe, **options)
    wanted = published(pipe, sampler, **options)
    for mistake in ({"guidance_scale": 3.001}, {"eta": 0.301}, {"schedule": tcd_with_ddim_times(sampler)}):
        assert distance(draw(from_pipeline(pipe, **{**options, **mistake})), wanted) > 1e-5
    assert distance(draw(sampler, prompts=["a cat", "two dog"]), wanted) > 1e-5
    assert distance(draw(sampler, negatives=["bad", "worst"]), wanted) > 1e-5


def tcd_with_ddim_times(sampler):
    return dataclasses.replace(sampler.schedule, times=(999, 749, 499, 249))


# FLUX

FLOW_CASES = [
    ("FlowMatchEulerDiscreteScheduler", {}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True, "base_shift": 0.3, "max_shift": 4.0}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True, "time_shift_type": "linear"}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, {}),
    ("FlowMatchEulerDiscreteScheduler", {}, {"sigmas": [1.0, 0.6, 0.35]}),
    ("FlowMatchLCMScheduler", {"shift": 2.0}, {}),
]


def draw_packed(z):
    """Noise as the scheduler draws it there: packed."""
    tokens = torch.randn(pack(z).shape, dtype=z.dtype)
    return unpack(tokens, z.shape[-2] // 2, z.shape[-1] // 2)


@pytest.fixture(scope="module", params=[False, True], ids=["schnell", "dev"])
def flux_pipe(request, tmp_path_factory):
    return load(tiny.flux(tmp_path_factory.mktemp("flux"), guidance=request.param))


@pytest.mark.parametrize(("kind", "config", "call"), FLOW_CASES)
def test_picture_is_that_of_flux(flux_pipe, kind, config, call):
    change_scheduler(
        flux_pipe, kind, **{"use_dynamic_shifting": False, "shift": 1.0, "stochastic_sampling": False, **config}
    )
    size = {"height": 16, "width": 24, "max_sequence_length": 20}
    for steps, scale in ((1, 1.0), (4, 2.5)):
        options = {
            **size,
            **({} if "sigmas" in call else {"num_inference_steps": steps}),
            "true_cfg_scale": scale,
            **call,
        }
        sampler = from_pipeline(flux_pipe, **options)
        negatives = NEGATIVES if scale > 1 else None
        wanted = published(flux_pipe, sampler, negatives=negatives, pack=pack, **options)
        torch.manual_seed(5)
        found = draw(sampler, negatives=negatives, noises=draw_packed)
        assert distance(found, wanted) < 1e-4
        assert wanted.std() > 0.05


@pytest.fixture(scope="module")
def sd3_pipe(tmp_path_factory):
    return load(tiny.sd3(tmp_path_factory.mktemp("sd3")))


@pytest.mark.parametrize(
    ("config", "call"),
    [
        ({}, {}),
        ({"shift": 1.0}, {"sigmas": [1.0, 0.6, 0.35]}),
        ({"stochastic_sampling": True}, {}),
        ({"use_dynamic_shifting": True, "base_shift": 0.3, "max_shift": 4.0}, {}),
    ],
)
def test_picture_is_that_of_stable_diffusion_3(sd3_pipe, config, call):
    defaults = {"use_dynamic_shifting": False, "shift": 3.0, "stochastic_sampling": False}
    change_scheduler(sd3_pipe, "FlowMatchEulerDiscreteScheduler", **{**defaults, **config})
    for steps, scale, negatives in ((1, 1.0, None), (4, 2.5, NEGATIVES), (2, 2.5, None)):
        options = {"max_sequence_length": 24, "guidance_scale": scale, **call}
        options |= {} if "sigmas" in call else {"num_inference_steps": steps}
        sampler = from_pipeline(sd3_pipe, **options)
        wanted = published(sd3_pipe, sampler, negatives=negatives, **options)
        torch.manual_seed(5)
        found = draw(sampler, negatives=negatives, noises=torch.randn_like)
        assert distance(found, wanted) < 1e-4
        assert wanted.std() > 0.05


def test_guidance_of_flux_dev_is_told(flux_pipe):
    options = {"height": 16, "width": 16, "max_sequence_length": 20, "num_inference_steps": 2}
    low, high = (draw(from_pipeline(flux_pipe, guidance_scale=w, **options), negatives=None) for w in (1.0, 7.0))
    assert (distance(low, high) > 1e-4) == flux_pipe.transformer.config.guidance_embeds


def test_packing_is_undone():
    z = torch.randn(2, 3, 4, 6)
    assert torch.equal(unpack(pack(z), 2, 3), z)
