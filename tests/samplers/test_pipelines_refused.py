"""What cannot be guided is refused in one line that says what to type."""

import accelerate
import pytest
import torch

import guideflow as gf
import tiny
from guideflow_diffusers import from_pipeline, guide
from pipelines import change_scheduler, load


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.sd15(tmp_path_factory.mktemp("sd15"))


@pytest.fixture
def pipe(folder):
    return load(folder)


def refused(pipe, **options):
    with pytest.raises(gf.GuideflowError) as caught:
        guide(pipe, lambda image: image.mean((1, 2, 3)), **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_what_is_no_pipeline(pipe):
    assert "Got 'stabilityai/sd-turbo' as pipe. Expected a loaded" in refused("stabilityai/sd-turbo")
    assert "Got None" in refused(None)


def test_a_pipeline_of_another_class(pipe):
    import diffusers

    other = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    text = refused(other)
    assert "Got a StableDiffusionImg2ImgPipeline" in text and "StableDiffusionPipeline.from_pipe(pipe)" in text
    assert len(from_pipeline(diffusers.StableDiffusionPipeline.from_pipe(other), num_inference_steps=2).schedule) == 2


def test_a_scheduler_that_is_not_affine(pipe):
    change_scheduler(pipe, "PNDMScheduler", skip_prk_steps=True)
    text = refused(pipe, num_inference_steps=4)
    assert "Got PNDMScheduler" in text
    import diffusers

    cure = text.rpartition("Type: ")[2]
    exec(cure, {"pipe": pipe, **vars(diffusers)})
    assert len(from_pipeline(pipe, num_inference_steps=4).schedule) == 4


@pytest.mark.parametrize("part", ["vae", "text_encoder", "unet"])
def test_a_part_that_is_missing(folder, part):
    assert f"has no {part}" in refused(load_without(folder, part))


def load_without(folder, part):
    pipe = load(folder)
    setattr(pipe, part, None)
    return pipe


def test_parts_on_several_devices(pipe):
    pipe.vae.to("meta")
    text = refused(pipe)
    assert "vae on meta" in text and "unet on cpu" in text and text.endswith("Type: pipe.to('cpu')")


def test_weights_that_come_and_go(pipe):
    accelerate.cpu_offload(pipe.unet, execution_device=torch.device("cpu"))
    assert "enable_sequential_cpu_offload" in refused(pipe)


def test_hooks_that_cast_weights(pipe):
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert "The unet has a hook of diffusers" in refused(pipe)


def test_options_of_other_pipelines(pipe):
    assert "A StableDiffusionPipeline does not take true_cfg_scale" in refused(pipe, true_cfg_scale=2.0)


@pytest.mark.parametrize(
    ("option", "cure"),
    [
        ("generator", "seed="),
        ("num_images_per_prompt", "seed="),
        ("output_type", "pil()"),
        ("prompt_embeds", "prompt="),
    ],
)
def test_options_that_guidance_has_something_else_for(pipe, option, cure):
    text = refused(pipe, **{option: None})
    assert f"Got {option}=" in text and cure in text


def test_a_slip_of_the_pen(pipe):
    assert "Did you mean 'num_inference_steps'" in refused(pipe, num_inference_step=4)
    assert "Did you mean 'max_iterations'" in refused(pipe, max_iteration=4)


def test_sizes_and_channels(pipe, tmp_path):
    change_scheduler(pipe, "EulerDiscreteScheduler")
    assert "Expected positive multiples of 2 pixels" in refused(pipe, height=15)
    flux = load(tiny.flux(tmp_path))
    assert "Expected positive multiples of 4 pixels" in refused(flux, height=18, width=16, max_sequence_length=20)
    pipe.vae.register_to_config(latent_channels=8)
    assert "8 latent channels and its denoiser takes 4" in refused(pipe)


def test_a_pipeline_where_a_checkpoint_belongs(pipe):
    with pytest.raises(gf.GuideflowError, match=r"guideflow_diffusers\.from_pipeline\(pipe\)"):
        gf.load_sampler("lcm", checkpoint=pipe)
