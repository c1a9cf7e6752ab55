"""What cannot be guided is refused in one line that says what to type."""

import accelerate
import pytest
import torch
from torch import nn

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


# Quantised parts, with layers as bitsandbytes and torchao have them


class Linear4bit(nn.Module):
    """Weights of few bits, made whole at each call; `rounds` tells what becomes of the activations."""

    def __init__(self, linear, rounds=None):
        super().__init__()
        self.in_features, self.rounds, self.bias = linear.in_features, rounds, linear.bias
        self.scale = linear.weight.detach().abs().max() / 7
        self.weight = nn.Parameter((linear.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, x):
        if self.rounds == "in place of a kernel":
            raise RuntimeError("int8 matmul has no backward")
        x = x if self.rounds is None else (x * 16).round() / 16
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


def quantise(network, name, *, method, **more):
    parent = network.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], Linear4bit(network.get_submodule(name), **more))
    network.register_to_config(quantization_config={"quant_method": method})


def test_weights_of_few_bits_are_guided_through(pipe):
    change_scheduler(pipe, "EulerDiscreteScheduler")
    quantise(pipe.unet, "time_embedding.linear_1", method="bitsandbytes")
    quantise(pipe.unet, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q", method="bitsandbytes")
    options = {"max_iterations": 2, "candidates": 1, "num_inference_steps": 2}
    solution = guide(pipe, lambda image: image.mean((1, 2, 3)), **options)
    assert solution.loss < solution.history["loss"][0]


@pytest.mark.parametrize(("rounds", "why"), [("activations", "it is zero"), ("in place of a kernel", "no backward")])
def test_rounded_activations(pipe, rounds, why):
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    quantise(pipe.unet, layer, method="torchao", rounds=rounds)
    text = refused(pipe)
    assert f"The unet is quantised by torchao, and its layer {layer} (Linear4bit) has no gradient: " in text
    assert why in text and text.endswith("Load it unquantised, or with only its weights quantised.")


def test_a_quantised_autoencoder(pipe):
    pipe.vae.decoder.mid_block.attentions[0].to_q = Linear4bit(pipe.vae.decoder.mid_block.attentions[0].to_q)
    pipe.vae.register_to_config(quantization_config={"quant_method": "bitsandbytes"})
    assert "The vae is quantised by bitsandbytes (layer decoder.mid_block.attentions.0.to_q)" in refused(pipe)


def test_compiled_parts_of_pipelines_that_are_refused(pipe):
    pipe.unet = torch.compile(pipe.unet)
    change_scheduler(pipe, "PNDMScheduler", skip_prk_steps=True)
    assert "Got PNDMScheduler" in refused(pipe, num_inference_steps=4)
    change_scheduler(pipe, "EulerDiscreteScheduler")
    assert len(from_pipeline(pipe, num_inference_steps=4).schedule) == 4


def test_a_scheduler_that_does_not_speak_in_angles(flow_folders):
    import diffusers

    sprint = load(flow_folders["sana"])
    sprint.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    text = refused(sprint, height=32, width=32, use_resolution_binning=False)
    assert "Got FlowMatchEulerDiscreteScheduler in a SanaSprintPipeline" in text
    exec(text.rpartition("Type: ")[2], {"pipe": sprint, **vars(diffusers)})
    assert len(from_pipeline(sprint, height=32, width=32, use_resolution_binning=False).schedule) == 2


def test_sizes_and_steps_that_sana_does_not_draw(flow_folders):
    sprint = load(flow_folders["sana"])
    assert "Give use_resolution_binning=False" in refused(sprint)
    sprint.transformer.register_to_config(sample_size=32)
    text = refused(sprint, height=1000, width=1000)
    assert "draws 1000x1000 as 1024x1024 and resizes. Give height=1024, width=1024" in text
    options = {"height": 32, "width": 32, "use_resolution_binning": False}
    assert "Give max_timesteps instead" in refused(sprint, timesteps=[1.5, 0.5, 0.0], **options)


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
