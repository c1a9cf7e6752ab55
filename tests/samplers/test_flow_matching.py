"""The sampler on the page about flow matching against diffusers' own scheduler and transformer."""

import itertools
import math
import re
import types
from pathlib import Path

import pytest
import torch

from guideflow.sampler import Schedule
from guideflow.testing import check_sampler

PAGE = Path(__file__).parents[2] / "docs" / "design" / "flow-matching.md"


@pytest.fixture(scope="module")
def page():
    """Run the code of the page, so that what is tested is what is read."""
    module = types.ModuleType("page")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    exec(compile("\n".join(blocks[:-1]), str(PAGE), "exec"), module.__dict__)
    exec(compile(blocks[-1].partition("\n\nsolution = ")[0], str(PAGE), "exec"), module.__dict__)
    return module


def chain(sampler, z, condition):
    for k in range(sampler.num_steps):
        z = sampler.step(k, z, condition)
    return z


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_chain_equals_the_published_scheduler(page, num_steps, guidance_scale):
    from diffusers import FlowMatchEulerDiscreteScheduler

    sampler = page.tiny_flow(num_steps, guidance_scale=guidance_scale)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=[1 - k / num_steps for k in range(num_steps)])
    assert sampler.schedule.times == pytest.approx(scheduler.timesteps.tolist(), rel=1e-6)

    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, 4, 8, 8, generator=generator)
    negatives = ["bad", "ugly"] if guidance_scale > 1 else None
    condition = sampler.condition(["a cat", "a dog"], negatives)
    text, pooled, negative, negative_pooled = (
        getattr(condition, name) for name in ("text", "pooled", "negative", "negative_pooled")
    )
    expected = z.clone()
    for t in scheduler.timesteps:
        velocity = sampler.transformer(expected, text, pooled, t.expand(2)).sample
        if guidance_scale > 1:
            without = sampler.transformer(expected, negative, negative_pooled, t.expand(2)).sample
            velocity = without + guidance_scale * (velocity - without)
        expected = scheduler.step(velocity, t, expected).prev_sample
    torch.testing.assert_close(chain(sampler, z, condition), expected, atol=1e-5, rtol=1e-5)

    wrong = Schedule(sampler.schedule.times, sampler.schedule.state, tuple(1.01 * b for b in sampler.schedule.output))
    sampler.schedule = wrong
    assert (chain(sampler, z, condition) - expected).abs().max() > 1e-3


def test_gradients_flow_to_the_noise(page):
    sampler = page.tiny_flow(2, guidance_scale=2.0, dtype=torch.float64)
    condition = sampler.condition(["a"])
    z = torch.randn(1, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(z)
    (gradient,) = torch.autograd.grad(chain(sampler, z, condition).square().sum(), z)
    with torch.no_grad():
        ends = [chain(sampler, z + sign * 1e-5 * direction, condition).square().sum() for sign in (1, -1)]
    assert ((ends[0] - ends[1]) / 2e-5).item() == pytest.approx((gradient * direction).sum().item(), rel=1e-6)


def test_conforms(page):
    check_sampler(page.tiny_flow, prompts=("a", "b", "c"))


def test_grid_of_flux_is_the_one_without_shift(page):
    assert page.flow_schedule(4, shift=1.0).times == (1000, 750, 500, 250)
    assert page.flow_schedule(4, shift=1.0).output == (-0.25,) * 4


def test_grid_that_diffusers_gives_stable_diffusion_3_is_as_told():
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(4)
    assert scheduler.sigmas.tolist() == pytest.approx([1, 0.858, 0.602, 0.009, 0], abs=5e-4)


def test_sana_sprint_is_the_row_that_replaces_the_noise():
    """Against diffusers' SCM scheduler, which counts in angles, and its pipeline's change of coordinates."""
    from diffusers import SCMScheduler

    scheduler = SCMScheduler()
    scheduler.set_timesteps(2, intermediate_timesteps=1.3, max_timesteps=math.pi / 2)
    angles = scheduler.timesteps.tolist()
    sigmas = [math.sin(t) / (math.cos(t) + math.sin(t)) for t in angles]
    assert sigmas == pytest.approx([1, 0.783, 0], abs=5e-4)
    z, v = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scheduler.set_begin_index(0)
    for k, (t, following) in enumerate(itertools.pairwise(angles)):
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(5))  # as the scheduler draws it
        s, end = sigmas[k : k + 2]
        angular = ((1 - 2 * s) * z + (1 - 2 * s + 2 * s * s) * v) / math.hypot(s, 1 - s)
        trigonometric = 0.5 * z * (math.cos(t) + math.sin(t))
        generator = torch.Generator().manual_seed(5)
        out = scheduler.step(0.5 * angular, scheduler.timesteps[k], trigonometric, generator=generator).prev_sample
        z = (1 - end) * (z - s * v) + end * noise
        torch.testing.assert_close(z, 2 * out / (math.cos(following) + math.sin(following)), atol=1e-6, rtol=1e-6)
