"""Maps of the flow, which are told where a step ends: MeanFlow, as the distilled HunyuanImage is one."""

from dataclasses import dataclass

import pytest
import torch

import guideflow as gf
from guideflow.testing import check_sampler
from guideflow_diffusers.flow import FlowAdapter, FlowSampler
from guideflow_diffusers.flow_steps import euler_schedule, even_grid
from guideflow_diffusers.text import Condition
from tiny import _vae


@dataclass(frozen=True)
class MeanFlow(FlowAdapter):
    """How `HunyuanImageTransformer2DModel` with `use_meanflow` is called."""

    def velocity(self, transformer, z, row, text, pooled, mask=None):
        start, end = (torch.full((len(z),), time, dtype=z.dtype) for time in (row.time, row.end_time))
        return transformer(
            hidden_states=z,
            timestep=start,
            timestep_r=end,
            encoder_hidden_states=text,
            encoder_attention_mask=mask,
            guidance=torch.full((len(z),), 3250.0, dtype=z.dtype),
        ).sample


def encode(prompts, negative_prompts, *, guided):
    texts = [torch.sin(torch.outer(torch.tensor([*map(ord, f"{p:4.4}")]), torch.arange(1.0, 17))) for p in prompts]
    return Condition(torch.stack(texts), mask=torch.ones(len(prompts), 4, dtype=torch.bool))


@pytest.fixture(scope="module")
def sampler():
    from diffusers import HunyuanImageTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = HunyuanImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            text_embed_dim=16,
            rope_axes_dim=(4, 4),
            guidance_embeds=True,
            use_meanflow=True,
        )
        vae = _vae()
    grid = even_grid(3, 4.0)
    return FlowSampler(transformer.double(), vae.double(), MeanFlow(), euler_schedule(grid), encode, image_size=8)


@torch.no_grad()
def published(sampler, z, prompts):
    """The pipeline's loop, with its scheduler."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler, condition = FlowMatchEulerDiscreteScheduler(shift=4.0), sampler.condition(prompts)
    scheduler.set_timesteps(sigmas=[1, 2 / 3, 1 / 3])
    times = scheduler.timesteps
    for i, t in enumerate(times):
        following = times[i + 1] if i + 1 < len(times) else torch.tensor(0.0)
        output = sampler.transformer(
            z,
            t.expand(len(z)).to(z.dtype),
            condition.text,
            condition.mask,
            timestep_r=following.expand(len(z)).to(z.dtype),
            guidance=torch.full((len(z),), 3250.0, dtype=z.dtype),
        ).sample
        z = scheduler.step(output, t, z).prev_sample
    return z


def chain(sampler, z, prompts):
    condition = sampler.condition(prompts)
    for k in range(sampler.num_steps):
        z = sampler.step(k, z, condition)
    return z


def test_steps_are_those_of_the_published_loop(sampler):
    z, prompts = gf.draw_noise(sampler, [0, 1]).initial, ["a cat", "a dog"]
    wanted = published(sampler, z, prompts)
    with torch.no_grad():
        found = chain(sampler, z, prompts)
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()  # the scheduler counts in float32


def test_the_end_of_the_window_counts(sampler):
    z, condition = gf.draw_noise(sampler, [0]).initial, sampler.condition(["a"])
    row = sampler.schedule[0]
    with torch.no_grad():
        near, far = (sampler.predict(z, row._replace(end_time=end), condition) for end in (row.end_time, 0.0))
    assert (near - far).abs().max() > 1e-4


def test_conforms(sampler):
    check_sampler(lambda: sampler, prompts=("a", "b", "c"))
