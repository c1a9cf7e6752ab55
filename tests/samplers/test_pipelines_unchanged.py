"""What was done to a pipeline counts, and the pipeline is afterwards what it was before."""

import accelerate
import pytest
import torch
from torch import nn

import guideflow as gf
import tiny
from guideflow.images import to_pil
from guideflow.testing import check_sampler
from guideflow_diffusers import from_pipeline, guide
from guideflow_diffusers.replica import frozen_view
from pipelines import change_scheduler, distance, draw, load, published

OPTIONS = {"num_inference_steps": 2, "guidance_scale": 2.0}


def brightness(image):
    return image.mean((1, 2, 3))


@pytest.fixture
def pipe(tiny_folders):
    """A pipeline as a user has it: weights that ask for gradients, a scheduler that has run, a hook of the user's."""
    pipe = load(tiny_folders["sd15"], torch.float64)
    change_scheduler(pipe, "LCMScheduler")
    pipe("a cat", num_inference_steps=3, generator=torch.Generator().manual_seed(0))
    pipe.unet.register_forward_hook(lambda module, args, output: None)
    return pipe


def snapshot(pipe):
    """Everything that a pipeline is made of: objects by identity, tensors by place and value."""
    found = {}
    for part_name, part in pipe.components.items():
        for name, module in part.named_modules() if isinstance(part, nn.Module) else ():
            where = f"{part_name}.{name}"
            for key, value in vars(module).items():
                inside = [(k, id(v)) for k, v in value.items()] if isinstance(value, dict) else None
                found[where, key] = (id(value), inside, value if isinstance(value, bool) else None)
            for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is not None:
                    about = (tensor.requires_grad, tensor.grad is None, tensor.data_ptr(), tensor._version)
                    found[where, key, "tensor"] = (*about, tensor.dtype, tensor.detach().double().sum().item())
    for key, value in vars(pipe.scheduler).items():
        found["scheduler", key] = value.tolist() if isinstance(value, torch.Tensor) else repr(value)
    return found | {("pipe", key): id(value) for key, value in vars(pipe).items()}


def test_the_pipeline_is_the_same_after_as_before(pipe):
    before, alone = snapshot(pipe), torch.random.get_rng_state()
    assert any(weight.requires_grad for weight in pipe.unet.parameters())
    for mode in ("full", "windowed", "checkpointed"):
        guide(pipe, brightness, prompt="a cat", max_iterations=2, candidates=1, gradient_mode=mode, **OPTIONS)
    assert snapshot(pipe) == before
    assert torch.equal(torch.random.get_rng_state(), alone)


def test_the_pipeline_is_the_same_after_an_error(pipe):
    def breaks(image):
        raise RuntimeError("the loss breaks")

    before = snapshot(pipe)
    with pytest.raises(RuntimeError, match="the loss breaks"):
        guide(pipe, breaks, **OPTIONS)
    assert snapshot(pipe) == before


def test_the_snapshot_sees_changes(pipe):
    before = snapshot(pipe)
    pipe.unet.requires_grad_(False)
    assert snapshot(pipe) != before


def test_weights_are_shared_and_frozen(pipe):
    sampler = from_pipeline(pipe, **OPTIONS)
    for own, theirs in ((sampler.parts.unet, pipe.unet), (sampler.parts.vae, pipe.vae)):
        names, weights = zip(*theirs.named_parameters(), strict=True)
        mine = dict(own.named_parameters())
        assert tuple(mine) == names
        assert all(mine[name].data_ptr() == weight.data_ptr() for name, weight in zip(names, weights, strict=True))
        assert not any(weight.requires_grad for weight in mine.values())


def test_a_view_by_itself():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = self.second = nn.Linear(3, 3)
            self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(3)

        def forward(self, x):
            return self.norm(self.drop(self.second(self.first(x))))

    own = Tied().train()
    view, cast = frozen_view(own), frozen_view(own, dtype=torch.float64)
    assert own.training and all(weight.requires_grad for weight in own.parameters())
    for one in (view, cast):
        assert not any(module.training for module in one.modules())
        assert not any(weight.requires_grad for weight in one.parameters())
        assert one.first is one.second and isinstance(one, Tied)
    assert view.first.weight.data_ptr() == own.first.weight.data_ptr()
    assert view.norm.running_mean is own.norm.running_mean
    assert (cast.first.weight.dtype, cast.norm.num_batches_tracked.dtype) == (torch.float64, torch.int64)
    x = torch.randn(5, 3)
    assert torch.equal(view(x), own.eval()(x))
    assert distance(cast(x.double()), view(x)) < 1e-6


def test_hooks_of_the_user_are_called(pipe):
    seen = []
    pipe.unet.mid_block.register_forward_hook(lambda module, args, output: seen.append(output))
    draw(from_pipeline(pipe, **OPTIONS))
    assert len(seen) == 2


def test_images_as_pictures(pipe):
    solution = guide(pipe, brightness, prompt=["a cat", "a dog"], max_iterations=1, candidates=1, **OPTIONS)
    pictures = solution.to_pil()
    assert [picture.size for picture in pictures] == [(16, 16)] * 2
    assert pictures[1].getpixel((3, 2)) == tuple((solution.images[1, :, 2, 3] * 255).round().int().tolist())


def test_guide_is_from_pipeline_and_solve(pipe):
    negative = ["bad", "worse"]
    more = {
        "prompt": "a cat",
        "negative_prompt": negative,
        "seed": [3, 4],
        "max_iterations": 3,
        "solver": gf.Anchored(),
    }
    one = guide(pipe, brightness, **more, **OPTIONS)
    other = gf.solve(from_pipeline(pipe, **OPTIONS), brightness, **more)
    assert torch.equal(one.images, other.images)
    assert (one.loss < one.history["loss"][0]).all()


# What was done to the pipeline


def same(pipe, **options):
    sampler = from_pipeline(pipe, **OPTIONS, **options)
    return distance(draw(sampler), published(pipe, sampler, **OPTIONS, **options)) < 1e-8


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
@pytest.mark.parametrize("fused", [False, True])
def test_loras(pipe, tiny_folders, tmp_path, fused):
    plain = draw(from_pipeline(pipe, **OPTIONS))
    for seed, name in ((1, "one"), (2, "two")):
        file = tiny.lora(tiny_folders["sd15"], tmp_path / f"{name}.safetensors", seed=seed, style="diffusers")
        pipe.load_lora_weights(file, adapter_name=name)
    pipe.set_adapters(["one", "two"], [0.8, 0.3])
    if fused:
        pipe.fuse_lora()
    before = snapshot(pipe)
    guide(pipe, brightness, max_iterations=1, candidates=1, **OPTIONS)
    assert snapshot(pipe) == before
    assert same(pipe)
    assert distance(draw(from_pipeline(pipe, **OPTIONS)), plain) > 1e-3
    if not fused:
        check_sampler(lambda: from_pipeline(pipe, **OPTIONS))


def test_ip_adapter(pipe, tiny_folders, tmp_path):
    tiny.ip_adapter(tmp_path, tiny_folders["sd15"])
    pipe.load_ip_adapter(str(tmp_path), subfolder="", weight_name="ip-adapter.safetensors")
    pipe.set_ip_adapter_scale(0.7)
    picture = to_pil(torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(3)))
    assert same(pipe, ip_adapter_image=picture)
    with pytest.raises(gf.GuideflowError, match="ip_adapter_image="):
        from_pipeline(pipe)
    pipe.unload_ip_adapter()
    with pytest.raises(gf.GuideflowError, match="no IP-Adapter"):
        from_pipeline(pipe, ip_adapter_image=picture)


def test_textual_inversion(pipe):
    before = draw(from_pipeline(pipe, **OPTIONS), prompts=["a cat", "two <me>"])
    pipe.load_textual_inversion({"<me>": torch.randn(3, 16)}, token="<me>")
    prompts = ["a cat", "two <me>"]
    sampler = from_pipeline(pipe, **OPTIONS)
    found = draw(sampler, prompts=prompts)
    assert distance(found, published(pipe, sampler, prompts=prompts, **OPTIONS)) < 1e-8
    assert distance(found[1], before[1]) > 1e-3


@pytest.mark.parametrize("what", ["tiling", "slicing"])
def test_autoencoder_in_pieces(pipe, what):
    plain = draw(from_pipeline(pipe, **OPTIONS))
    getattr(pipe.vae, f"enable_{what}")()
    pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = 4, 8
    assert same(pipe)
    assert (distance(draw(from_pipeline(pipe, **OPTIONS)), plain) > 1e-3) == (what == "tiling")
    check_sampler(lambda: from_pipeline(pipe, **OPTIONS))


@pytest.mark.parametrize("how", ["returned", "in place"])
def test_compiled(pipe, how):
    plain = draw(from_pipeline(pipe, **OPTIONS))
    if how == "returned":
        pipe.unet = torch.compile(pipe.unet)
    else:
        pipe.unet.compile()
        pipe.vae.compile()
    compiled = pipe.unet
    assert torch.equal(draw(from_pipeline(pipe, **OPTIONS)), plain)
    assert pipe.unet is compiled


def test_offloaded(pipe):
    plain, hook = draw(from_pipeline(pipe, **OPTIONS)), None
    for part in (pipe.text_encoder, pipe.unet, pipe.vae):
        _, hook = accelerate.cpu_offload_with_hook(part, torch.device("cpu"), prev_module_hook=hook)
    before = snapshot(pipe)
    sampler = from_pipeline(pipe, **OPTIONS)
    assert torch.equal(draw(sampler), plain)
    assert not any(hasattr(module, "_hf_hook") for module in (sampler.parts.unet, sampler.parts.vae))
    guide(pipe, brightness, max_iterations=1, candidates=1, **OPTIONS)
    assert snapshot(pipe) == before
    assert same(pipe)


class Quantised(nn.Module):
    """A linear layer with weights of 8 bits, which cannot ask for gradients."""

    def __init__(self, linear):
        super().__init__()
        self.scale = linear.weight.detach().abs().max() / 127
        self.weight = nn.Parameter((linear.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


def test_quantised(pipe):
    pipe.unet.time_embedding.linear_1 = Quantised(pipe.unet.time_embedding.linear_1)
    sampler = from_pipeline(pipe, **OPTIONS)
    assert sampler.parts.unet.time_embedding.linear_1.weight is pipe.unet.time_embedding.linear_1.weight
    assert same(pipe)
    check_sampler(lambda: from_pipeline(pipe, **OPTIONS))


def test_half_precision_keeps_the_autoencoder_in_float32(tiny_folders):
    pipe = load(tiny_folders["sdxl"], torch.bfloat16)
    change_scheduler(pipe, "LCMScheduler")
    pipe.encode_prompt("a cat")  # transformers puts hooks of its own on an encoder that is used for the first time
    before = snapshot(pipe)
    sampler = from_pipeline(pipe, **OPTIONS)
    assert (sampler.dtype, sampler.parts.vae.dtype, pipe.vae.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    solution = guide(pipe, brightness, prompt="a cat", max_iterations=2, candidates=1, **OPTIONS)
    assert solution.loss < solution.history["loss"][0]
    assert snapshot(pipe) == before


@pytest.mark.parametrize("base", ["sdxl", "flux", "sd3"])
def test_conforms(tiny_folders, tmp_path, base):
    pipe = load(tiny_folders[base] if base == "sdxl" else getattr(tiny, base)(tmp_path), torch.float64)
    if base != "sdxl":
        more = {"max_sequence_length": 20, "height": 16, "width": 16, "num_inference_steps": 2}
    else:
        change_scheduler(pipe, "EulerAncestralDiscreteScheduler")
        more = OPTIONS
    check_sampler(lambda: from_pipeline(pipe, **more), prompts=("a cat", "a dog", "c"))
