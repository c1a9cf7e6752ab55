"""Loaded pipelines with flow-matching transformers: the sampler draws what the pipeline draws."""

import functools

import pytest
import torch

import guideflow_diffusers as families
import tiny_flows
from guideflow.testing import check_sampler
from guideflow_diffusers import from_pipeline, guide
from guideflow_diffusers.flux import pack, unpack
from pipelines import NEGATIVES, change_scheduler, distance, draw, load, published

SIZES = {"z_image": (16, 24), "flux2": (32, 48), "sana": (32, 64), "qwen_image": (16, 24)}
LENGTH = {"z_image": 40, "flux2": 40, "sana": 20, "qwen_image": 1024}
EULER, LCM = "FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler"
CASES = [  # pipeline, scheduler, options of the call, whether there are negative prompts
    ("z_image", {}, {"num_inference_steps": 3}, True),
    ("z_image", {}, {"num_inference_steps": 2, "guidance_scale": 2.0}, False),
    ("z_image", {"use_dynamic_shifting": True}, {"num_inference_steps": 2, "guidance_scale": 0.0}, False),
    ("z_image", {"stochastic_sampling": True}, {"sigmas": [1.0, 0.6, 0.2], "guidance_scale": 0.0}, False),
    ("flux2", {}, {"num_inference_steps": 4}, False),
    ("flux2", {"use_dynamic_shifting": False, "shift": 2.0}, {"num_inference_steps": 2}, False),
    ("sana", {}, {}, False),
    ("sana", {}, {"num_inference_steps": 1, "max_timesteps": 1.5, "guidance_scale": 2.0}, False),
    ("sana", {}, {"num_inference_steps": 3}, False),
    ("qwen_image", {}, {"num_inference_steps": 4}, True),
    ("qwen_image", {}, {"num_inference_steps": 2, "true_cfg_scale": 2.0}, False),
    ("qwen_image", {"shift_terminal": None}, {"num_inference_steps": 1, "true_cfg_scale": 1.0}, False),
]


def options_of(base, call):
    height, width = SIZES[base]
    sana = {"use_resolution_binning": False} if base == "sana" else {}
    return {"height": height, "width": width, "max_sequence_length": LENGTH[base], **sana, **call}


def told(base, options):
    """The pipeline of SANA-Sprint wants to be told what does not apply."""
    more = {}
    if base == "sana" and options.get("num_inference_steps", 2) != 2:
        more["intermediate_timesteps"] = None
    return {**options, **more}


@pytest.fixture(scope="module")
def pipe_of(flow_folders):
    return functools.cache(lambda base: load(flow_folders[base]))


@pytest.mark.parametrize(("base", "config", "call", "prompted"), CASES)
def test_picture_is_that_of_the_pipeline(pipe_of, flow_folders, base, config, call, prompted):
    pipe = pipe_of(base)
    own = pipe.scheduler
    if config:
        change_scheduler(pipe, EULER, **config)
    options, negatives = options_of(base, call), NEGATIVES if prompted else None
    with torch.no_grad():
        sampler = from_pipeline(pipe, **options)
        wanted = published(
            pipe,
            sampler,
            negatives=negatives,
            pack=pack if base == "qwen_image" else lambda z: z,
            **told(base, options),
        )
        torch.manual_seed(5)
        found = draw(
            sampler, negatives=negatives, noises=torch.randn_like if config.get("stochastic_sampling") else None
        )
    pipe.scheduler = own
    assert distance(found, wanted) < 1e-4
    assert wanted.std() > 0.05


def test_klein_that_is_not_distilled(tmp_path):
    pipe = load(tiny_flows.flux2(tmp_path, distilled=False))
    options = options_of("flux2", {"num_inference_steps": 2, "guidance_scale": 3.0})
    sampler = from_pipeline(pipe, **options)
    assert sampler.guidance_scale == 3.0
    assert distance(draw(sampler, negatives=None), published(pipe, sampler, negatives=None, **options)) < 1e-4


def test_the_comparison_sees_small_mistakes(pipe_of):
    pipe, options = pipe_of("qwen_image"), options_of("qwen_image", {"num_inference_steps": 2, "true_cfg_scale": 3.0})
    sampler = from_pipeline(pipe, **options)
    wanted = published(pipe, sampler, pack=pack, **options)
    assert distance(draw(sampler), wanted) < 1e-4
    other = from_pipeline(pipe, **{**options, "true_cfg_scale": 3.5})
    assert distance(draw(other), wanted) > 1e-4
    own = families.qwen_lightning_schedule(2)
    assert distance(draw(from_pipeline(pipe, **options, schedule=own)), wanted) > 1e-4


@pytest.mark.parametrize("base", SIZES)
def test_guide(pipe_of, base):
    pipe = pipe_of(base)
    scale = {"guidance_scale": 0.0} if base == "z_image" else {}
    more = {"num_inference_steps": 2, "max_iterations": 4, "candidates": 1, **scale}
    solution = guide(pipe, lambda image: image.mean((1, 2, 3)), prompt="a cat", seed=[0, 1], **options_of(base, more))
    assert (solution.loss < solution.history["loss"][0]).all()
    assert [picture.size for picture in solution.to_pil()] == [SIZES[base][::-1]] * 2


def test_conforms_in_pieces(pipe_of):
    """The autoencoders of SANA and Qwen-Image decode in tiles of their own, with seams that have gradients."""
    for base in ("sana", "qwen_image"):
        pipe = pipe_of(base)
        options = options_of(base, {"num_inference_steps": 2})
        plain = draw(from_pipeline(pipe, **options), negatives=None)
        pipe.vae.enable_tiling(16, 16, 8, 8) if base == "qwen_image" else pipe.vae.enable_tiling(32, 32, 32, 32)
        sampler = from_pipeline(pipe, **options)
        found, packed = draw(sampler, negatives=None), pack if base == "qwen_image" else lambda z: z
        wanted = published(pipe, sampler, negatives=None, pack=packed, **told(base, options))
        pipe.vae.disable_tiling()
        assert distance(found, wanted) < 1e-4
        assert distance(found, plain) > 1e-4
        check_sampler(lambda sampler=sampler: sampler, prompts=("a cat", "a dog", "c"))


def test_packing_of_noise():
    z = torch.randn(1, 4, 4, 6)
    assert torch.equal(unpack(pack(z), 2, 3), z)
