"""Every family of the avatars world with its real weights: it draws what the prompt says, and guidance steers it."""

import inspect

import pytest
import torch

import guideflow as gf
import guideflow_avatars as avatars
import guideflow_diffusers as diffusers
from guideflow.errors import InvalidArgument
from guideflow.testing import check_sampler
from guideflow_avatars import judges
from guideflow_avatars.samplers import FAMILIES

STEPS = {"perflow": 4, "rectified-flow": 4, "instaflow": 1, "turbo": 4, "pcm": 4}
BAR = {"instaflow": 0.75}
PROMPTS = [
    "a person with a yellow t-shirt, purple background",
    "a smiling person in a red shirt, blue background",
    "a person with a green dress, orange background",
    "an angry person in a black turtleneck, white background",
    "a person in a blue jacket, pink background",
    "a sad person with a white shirt, green background",
]


def unguided(sampler, prompts):
    options = {"prompt": prompts, "seed": range(len(prompts)), "max_iterations": 0, "candidates": 1}
    return gf.solve(sampler, lambda x: x.mean((1, 2, 3)), **options).images


@pytest.fixture(scope="module", params=STEPS)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def sampler(family):
    return gf.load_sampler(f"avatars-{family}")


def test_it_has_the_steps_of_its_family(family, sampler):
    assert sampler.num_steps == STEPS[family]
    assert sampler.latent_shape == (8, 16, 16)
    assert sampler.image_size == (128, 128)


def test_pictures_obey_prompts_never_trained_on(family, sampler):
    prompts = PROMPTS * 2
    accuracy = judges.prompt_accuracy(unguided(sampler, prompts), prompts).mean()
    assert accuracy >= BAR.get(family, 0.85)


@pytest.mark.slow
def test_guidance_raises_the_likeness_that_a_held_out_judge_sees(sampler):
    reference = gf.images.read_image(avatars.portrait("gus"))
    loss = gf.load_loss("avatars-identity", reference=reference)
    solution = gf.solve(sampler, loss, prompt=PROMPTS[0], seed=[0, 1], max_iterations=6, candidates=4)
    assert (solution.loss < solution.history["loss"][0]).all()
    before, after = (judges.identity_similarity(x, reference).mean() for x in (solution.unguided, solution.images))
    assert after > before + 0.1


def test_it_conforms(family):
    small = gf.load_sampler(f"avatars-{family}", image_size=64)
    check_sampler(lambda: small, prompts=(PROMPTS[0], ""))


@pytest.mark.parametrize("family", ["perflow", "rectified-flow", "turbo", "pcm"])
def test_more_steps_draw_the_prompt_too(family):
    sampler = gf.load_sampler(f"avatars-{family}", num_steps=8)
    assert judges.prompt_accuracy(unguided(sampler, PROMPTS), PROMPTS).mean() >= 0.75


def test_stochastic_steps_draw_their_noise_from_the_seed():
    sampler = gf.load_sampler("avatars-turbo", method="ancestral")
    first, again = (unguided(sampler, PROMPTS[:2]) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, unguided(gf.load_sampler("avatars-turbo"), PROMPTS[:2]), atol=0.05)


@pytest.mark.parametrize(("family", "steps"), [("perflow", 3), ("instaflow", 2), ("turbo", 0), ("pcm", 0)])
def test_illegal_numbers_of_steps_are_refused(family, steps):
    with pytest.raises(InvalidArgument, match=f"num_steps={steps}"):
        gf.load_sampler(f"avatars-{family}", num_steps=steps)


@pytest.mark.parametrize(
    ("family", "schedule", "options"),
    [
        ("perflow", diffusers.perflow_schedule, {"num_steps": 6}),
        ("rectified-flow", diffusers.rectified_flow_schedule, {"num_steps": 3}),
        ("turbo", diffusers.turbo_schedule, {"num_steps": 3, "method": "ancestral"}),
        ("pcm", diffusers.pcm_schedule, {"num_steps": 5, "grid": "tcd", "eta": 0.3}),
    ],
)
def test_options_reach_the_schedule(family, schedule, options):
    sampler = gf.load_sampler(f"avatars-{family}", **options)
    assert sampler.schedule == schedule(**options)
    assert any(sampler.stochastic) == (family in ("turbo", "pcm"))


def test_which_weights_are_bundled_is_no_option():
    for family in FAMILIES.values():
        assert not {"checkpoint", "base", "lora", "delta", "variant"} & set(inspect.signature(family).parameters)
