"""Image prompts against the result of diffusers' own pipeline with the same adapter."""

import pytest
import torch
from torch import nn

import guideflow as gf
import tiny
from guideflow.errors import InvalidArgument, MissingWeights
from guideflow.images import save_image, to_pil
from guideflow_diffusers.ip_adapter import with_ip_adapter
from guideflow_diffusers.latent import LatentSampler
from guideflow_diffusers.parts import load_parts
from guideflow_diffusers.perflow import perflow_schedule

SCALE = 0.7


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = getattr(tiny, request.param)(folder / "base")
    return checkpoint, tiny.ip_adapter(folder / "adapter", checkpoint) / "ip-adapter.safetensors"


@pytest.fixture
def picture():
    return torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(3))


def run(sampler, prompts=("a cat",), seed=1):
    z = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=sampler.state_dtype)
    condition = sampler.condition(list(prompts))
    states = [z]
    for k in range(sampler.num_steps):
        states.append(sampler.step(k, states[-1], condition))
    return states


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("count", [1, 2])
def test_result_equals_the_pipeline(base, picture, guidance_scale, count):
    import diffusers

    checkpoint, adapter = base
    pictures = [picture, picture.flip(-1)][:count]
    parts = load_parts(checkpoint, dtype="float64")
    sampler = LatentSampler(parts, perflow_schedule(), guidance_scale=guidance_scale)
    adapted = with_ip_adapter(sampler, adapter, pictures if count > 1 else picture, SCALE)
    states = run(adapted, ("a cat", "a dog"))

    kind = "XL" if "sdxl" in str(checkpoint) else ""
    pipeline = getattr(diffusers, f"StableDiffusion{kind}Pipeline").from_pretrained(checkpoint).to(torch.float64)
    pipeline.load_ip_adapter(str(adapter.parent), subfolder="", weight_name=adapter.name)
    pipeline.set_ip_adapter_scale(SCALE)
    seen = []
    pipeline.unet.register_forward_hook(lambda module, args, output: seen.append((args, output[0])))
    pipeline(
        ["a cat", "a dog"],
        latents=states[0],
        num_inference_steps=1,
        guidance_scale=guidance_scale,
        ip_adapter_image=[[to_pil(p) for p in pictures]],
        output_type="latent",
    )
    (z, t), output = seen[0]
    if guidance_scale > 1:
        without, with_text = output.chunk(2)
        output = without + guidance_scale * (with_text - without)
    found = adapted.predict(
        states[0], adapted.schedule[0]._replace(time=float(t)), adapted.condition(["a cat", "a dog"])
    )
    torch.testing.assert_close(z[:2], states[0])
    torch.testing.assert_close(found, output, atol=1e-12, rtol=1e-12)


def test_scale_zero_and_the_sampler_it_was_made_of_are_as_without(base, picture):
    checkpoint, adapter = base
    sampler = LatentSampler(load_parts(checkpoint, dtype="float64"), perflow_schedule(), guidance_scale=2.0)
    before = run(sampler)[-1]
    strong, off = with_ip_adapter(sampler, adapter, picture, 1.0), with_ip_adapter(sampler, adapter, picture, 0.0)
    assert torch.equal(run(sampler)[-1], before)
    torch.testing.assert_close(run(off)[-1], before, atol=1e-12, rtol=1e-12)
    assert (run(strong)[-1] - before).abs().max() > 1e-2
    assert off.parts.unet.conv_in.weight.data_ptr() == sampler.parts.unet.conv_in.weight.data_ptr()
    assert not any(weight.requires_grad for weight in strong.parts.unet.parameters())


def test_gradients_flow_and_a_solve_goes_down(base, picture):
    checkpoint, adapter = base
    sampler = LatentSampler(load_parts(checkpoint, dtype="float64"), perflow_schedule())
    adapted = with_ip_adapter(sampler, adapter, picture)
    z = torch.randn(1, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    condition = adapted.condition(["a"])
    direction = torch.randn_like(z)
    value = adapted.step(0, z, condition).square().sum()
    (gradient,) = torch.autograd.grad(value, z)
    h = 1e-5
    with torch.no_grad():
        ends = [adapted.step(0, z + sign * h * direction, condition).square().sum() for sign in (1, -1)]
    # The time embedding is computed in float32, and is the same on both sides.
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx((gradient * direction).sum().item(), rel=1e-5)
    solution = gf.solve(adapted, lambda x: x.square().mean((1, 2, 3)), prompt="a", seed=[0, 1], max_iterations=4)
    assert (solution.loss < solution.history["loss"][0]).all()


def test_conforms(base, picture):
    from guideflow.testing import check_sampler

    checkpoint, adapter = base
    sampler = with_ip_adapter(LatentSampler(load_parts(checkpoint), perflow_schedule()), adapter, picture)
    check_sampler(lambda: sampler, prompts=("a", "b", "c"))


def test_parts_and_paths_are_taken(base, picture, tmp_path):
    checkpoint, adapter = base
    path = save_image(tmp_path / "me.png", picture)
    parts = with_ip_adapter(load_parts(checkpoint), adapter, path, image_encoder=adapter.parent / "image_encoder")
    assert isinstance(parts.unet, nn.Module) and len(parts.image_prompt) == 1
    with pytest.raises(InvalidArgument, match="already"):
        with_ip_adapter(parts, adapter, path)
    with pytest.raises(InvalidArgument, match="no image"):
        with_ip_adapter(load_parts(checkpoint), adapter, [])


def test_other_files_are_refused(base, picture, tmp_path, monkeypatch):
    checkpoint, adapter = base
    parts = load_parts(checkpoint)
    lora = tiny.lora(checkpoint, adapter.parent / "lora.safetensors")
    with pytest.raises(InvalidArgument, match="no IP-Adapter"):
        with_ip_adapter(parts, lora, picture)
    other = tiny.ip_adapter(tmp_path / "other", tiny.sd21(tmp_path / "sd21")) / "ip-adapter.safetensors"
    with pytest.raises(InvalidArgument, match="for another base"):
        with_ip_adapter(parts, other, picture)
    with pytest.raises(InvalidArgument, match="no image encoder"):
        with_ip_adapter(parts, adapter, picture, image_encoder=tmp_path / "none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(
        MissingWeights, match=r"(?s)hf download h94/IP-Adapter models/ip-adapter_sd15.safetensors .*adapter="
    ):
        with_ip_adapter(parts, "h94/IP-Adapter:models/ip-adapter_sd15.safetensors", picture)
