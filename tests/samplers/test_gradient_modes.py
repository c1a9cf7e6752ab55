"""Gradient modes on diffusers networks: the same numbers for less memory, and networks left as they were."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import guideflow as gf
from family_table import MAIN, PROMPTS
from guideflow.gradients import MODES
from guideflow.memory import alive_bytes
from guideflow_diffusers import instaflow_schedule
from guideflow_diffusers.checkpointing import active, blocks, checkpointed
from guideflow_diffusers.latent import LatentSampler
from guideflow_diffusers.parts import load_parts

AVATARS = {"perflow": {}, "rectified-flow": {}, "instaflow": {}, "turbo": {"method": "ancestral"}, "pcm": {"eta": 0.5}}


def grey(image):
    return (image - 0.4).square().mean((1, 2, 3))


def rollouts(sampler, prompts):
    """The rollout of the same controls in every mode."""
    noise = gf.draw_noise(sampler, range(len(prompts)))
    condition = sampler.condition(prompts)
    generator = torch.Generator().manual_seed(1)
    shape = (sampler.num_steps, *noise.initial.shape)
    controls = 0.1 * torch.randn(shape, generator=generator).to(sampler.state_dtype)
    for mode in MODES:
        problem = gf.Problem(sampler, grey, noise, condition, gradient_mode=mode)
        yield problem.rollout(problem.z0, controls)


def assert_same(full, *others, tolerance):
    assert full.gradients.abs().max() > 0
    for other in others:
        assert torch.equal(other.images, full.images) and torch.equal(other.loss, full.loss)
        assert torch.equal(other.states, full.states) and torch.equal(other.end_points, full.end_points)
        error = (other.gradients - full.gradients).norm() / full.gradients.norm()
        assert error < tolerance


@pytest.mark.parametrize("family", AVATARS)
def test_avatars(family):
    sampler = gf.load_sampler(f"avatars-{family}", **AVATARS[family])
    assert_same(*rollouts(sampler, ["a person"]), tolerance=1e-6)


@pytest.mark.parametrize("name", ["perflow", "perflow-sdxl", "lcm"])
def test_guidance_by_prompt_and_other_bases_in_float64(name, load_family):
    sampler = load_family(MAIN[name], 4, dtype="float64")
    assert sampler.guided
    assert_same(*rollouts(sampler, PROMPTS), tolerance=1e-12)


def test_an_avatar_keeps_less_in_each_mode():
    sampler = gf.load_sampler("avatars-perflow")
    z = sampler.prepare(gf.draw_noise(sampler, [0]).initial).requires_grad_()
    condition = sampler.condition(["a person"])
    parts = (lambda: sampler.step(0, z, condition)), (lambda: sampler.decode(z))
    whole = [alive_bytes(part) for part in parts]
    kept = {}
    for least in (False, True):
        with sampler.checkpointing(least):
            kept[least] = [alive_bytes(part) / full for part, full in zip(parts, whole, strict=True)]
    assert max(kept[True]) < 0.3 and kept[False][0] < 0.3 and kept[False][1] < 0.45
    solution = gf.solve(sampler, grey, max_iterations=0, gradient_mode="auto", memory_limit=whole[0] + whole[1])
    assert solution.stats["gradient_mode"] == "windowed"


def test_convolutions_of_a_decoder_run_once_or_the_first_of_each_block_twice():
    sampler = gf.load_sampler("avatars-perflow")
    decoder = sampler.parts.vae.decoder
    z = torch.zeros(1, *sampler.latent_shape, requires_grad=True)
    again = {}
    for least in (False, True):
        with sampler.checkpointing(least):
            image = sampler.decode(z)
        with Convolutions() as again[least]:
            torch.autograd.grad(image.sum(), z)
    residual = [block for block in blocks(decoder) if hasattr(block, "conv2")]
    assert [again[least].count for least in (False, True)] == [0, len(residual)]


class Convolutions(TorchDispatchMode):
    """Counts those evaluated."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


def test_blocks_do_not_overlap_and_networks_are_left_as_they_were(load_family):
    parts = load_family(MAIN["perflow-sdxl"], 4).parts
    for network in (parts.unet, parts.vae.decoder):
        found = blocks(network)
        inside = [module for block in found for module in block.modules()]
        assert len(inside) == len(set(inside)) and len(found) > 5
        before = [dict(vars(module)) for module in network.modules()]
        with checkpointed(network):
            twin = active(network)
            assert twin is not network and twin.conv_in.weight is network.conv_in.weight
            assert [name for name, _ in twin.named_parameters()] == [name for name, _ in network.named_parameters()]
        assert [dict(vars(module)) for module in network.modules()] == before
    # SDXL's second level has several transformer blocks in one: each is checkpointed by itself.
    names = {type(block).__name__ for block in blocks(parts.unet)}
    assert {"ResnetBlock2D", "BasicTransformerBlock"} <= names


def test_a_forward_that_somebody_replaced_is_called_and_stays():
    network = gf.load_sampler("avatars-instaflow").parts.vae.decoder
    block, called = blocks(network)[0], []
    mine = block.forward
    block.forward = replaced = lambda *args, **more: called.append(True) or mine(*args, **more)
    with checkpointed(network), pytest.raises(KeyError):
        active(network)(torch.zeros(1, 8, 16, 16, requires_grad=True))
        raise KeyError
    assert called and block.__dict__["forward"] is replaced


def test_compiled_networks(tiny_folders):
    """With a compiler that changes nothing, so that only how networks are called is tried."""
    options = {"prompt": "a person", "max_iterations": 1, "candidates": 1}
    parts, in_place = load_parts(tiny_folders["sd15"]), load_parts(tiny_folders["sd15"])
    plain = gf.solve(LatentSampler(parts, instaflow_schedule(1)), grey, **options).images
    in_place.unet.compile(backend="eager")
    for one in (dataclasses.replace(parts, unet=torch.compile(parts.unet, backend="eager")), in_place):
        sampler = LatentSampler(one, instaflow_schedule(1))
        for mode in ("full", "checkpointed"):
            found = gf.solve(sampler, grey, gradient_mode=mode, **options).images
            torch.testing.assert_close(found, plain, atol=1e-5, rtol=0)
