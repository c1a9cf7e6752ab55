"""Every family against the scheduler it was published with, or its formula where there is none; mistakes are caught."""

from dataclasses import replace

import pytest
import torch

import guideflow_diffusers as families
import references
from family_table import FAMILIES, MAIN, NEGATIVES, PROMPTS, draw, error, relative, run, score

# Schedulers of diffusers compute in float32: about ten times what that rounds to, and far below CAUGHT.
TOLERANCE, GRADIENT_TOLERANCE = {"float32": 3e-5, "float64": 1e-12}, {"float32": 1e-4, "float64": 1e-11}
CAUGHT = 1e-4  # the smallest mistake below makes a difference of 1.7e-4


every_family = pytest.mark.parametrize("family", FAMILIES, ids=str)


@pytest.fixture(scope="module")
def network(tiny_folders):
    made = {}

    def network(base, dtype):
        if (base, dtype) not in made:
            full = base == "full_lcm"
            folder, unet = (tiny_folders["sd15"], tiny_folders[base]) if full else (tiny_folders[base], None)
            made[base, dtype] = references.Network(folder, unet=unet, dtype=getattr(torch, dtype))
        return made[base, dtype]

    return network


@pytest.fixture(scope="module")
def expected(network):
    """Times, states and gradient with respect to the noise, by the family's reference."""
    made = {}

    def expected(family, num_steps, noise, guidance=None):
        scale = family.guidance if guidance is None else guidance
        key = (str(family), num_steps, scale)
        if key not in made:
            model, more = network(family.base, family.dtype), {}
            if family.base == "full_lcm":
                embedding = references.guidance_embedding(scale, model.unet.config.time_cond_proj_dim)
                more, scale = {"timestep_cond": embedding.expand(len(PROMPTS), -1)}, 1
            initial = noise.initial.clone().requires_grad_()
            f = model.guided(PROMPTS, NEGATIVES, scale, **more)
            drawn = [torch.zeros_like(initial) if n is None else n for n in noise.steps]
            times, states = family.reference(num_steps, f, initial, drawn)
            image = model.decode(states[-1])
            (gradient,) = torch.autograd.grad(score(image), initial)
            made[key] = times, [state.detach() for state in states], image.detach(), gradient
        return made[key]

    return expected


@every_family
def test_steps_and_chain_equal_the_reference(family, load_family, expected):
    for num_steps in family.steps:
        sampler = load_family(family, num_steps)
        noise, _ = draw(sampler)
        times, states, image, _ = expected(family, num_steps, noise)
        assert sampler.schedule.times == tuple(times)
        assert sampler.schedule.end_times == (*times[1:], 0)
        assert error(sampler, noise, states) <= TOLERANCE[family.dtype]
        with torch.no_grad():
            assert relative(sampler.decode(states[-1]), image) <= TOLERANCE[family.dtype]


@pytest.mark.parametrize("name", [name for name in MAIN if name != "lcm"])
def test_without_guidance_by_prompt_the_reference_is_met_too(name, load_family, expected):
    family, num_steps = MAIN[name], min(MAIN[name].steps)
    sampler = load_family(family, num_steps, guidance_scale=1.0)
    noise, _ = draw(sampler)
    assert error(sampler, noise, expected(family, num_steps, noise, guidance=1.0)[1]) <= TOLERANCE[family.dtype]


@every_family
def test_gradient_with_respect_to_the_noise_equals_that_through_the_reference(family, load_family, expected):
    num_steps = 4 if 4 in family.steps else 1
    sampler = load_family(family, num_steps)
    noise, _ = draw(sampler)
    initial = noise.initial.clone().requires_grad_()
    image = sampler.decode(run(sampler, replace(noise, initial=initial))[-1])
    (gradient,) = torch.autograd.grad(score(image), initial)
    assert relative(gradient, expected(family, num_steps, noise)[3]) <= GRADIENT_TOLERANCE[family.dtype]


# Mistakes


def with_schedule(**columns):
    def mutate(sampler):
        sampler.schedule = replace(sampler.schedule, **{name: f(sampler.schedule) for name, f in columns.items()})

    return mutate


def other(make, **options):
    """Another family's table in place of the right one."""

    def mutate(sampler):
        sampler.schedule = make(sampler.num_steps, **options)

    return mutate


def off_guidance(sampler):
    sampler.guidance_scale += 0.01


TIME = {"time off by one": with_schedule(times=lambda s: tuple(t - 1 for t in s.times))}
GUIDED = {**TIME, "guidance off by 0.01": off_guidance, "wrong negative prompt": None}
UNIT = {"unit noise at the start": with_schedule(init_scale=lambda s: 1.0)}
SIGN = {"velocity backwards": with_schedule(output=lambda s: tuple(-b for b in s.output))}
DDIM, TCD, ETA = (
    {"DDIM grid": other(families.pcm_schedule)},
    {"TCD grid": other(families.pcm_schedule, grid="tcd")},
    {"eta 0.3": other(families.pcm_schedule, grid="tcd", eta=0.3)},
)
EULER = {"ends at no noise": other(families.turbo_schedule)}
MISTAKES = {
    "perflow": GUIDED
    | {
        "one noise for both ends": other(families.perflow_schedule, prediction="ddim_eps"),
        "two windows": other(families.perflow_schedule, windows=2),
    },
    "perflow-sd21": GUIDED | SIGN | {"epsilon": other(families.perflow_schedule)},
    "perflow-sdxl": GUIDED | {"independent noise": other(families.perflow_schedule), "PCM": DDIM["DDIM grid"]},
    "rectified-flow": GUIDED | SIGN | {"PeRFlow": other(families.perflow_schedule, prediction="velocity")},
    "instaflow": GUIDED | SIGN,
    "sd-turbo": GUIDED | UNIT | {"ends at time 0": DDIM["DDIM grid"]},
    "sdxl-turbo": GUIDED | UNIT | {"Stability's grid": other(families.turbo_schedule, method="sgm")} | EULER,
    "pcm": GUIDED | TCD | ETA | EULER,
    "pcm-sdxl": GUIDED | TCD | ETA | EULER,
    "lcm": GUIDED | {"keeps noise": other(families.hyper_sd_schedule, unified=True, eta=0.9)} | ETA,
    "sdxl-lightning": GUIDED | UNIT | TCD | {"ends at time 0": DDIM["DDIM grid"]},
    "hyper-sd": GUIDED | TCD | ETA | EULER,
    "dmd2-sdxl": GUIDED | DDIM | ETA,
    "tcd-sd15": GUIDED | DDIM | {"eta 0.31": other(families.tcd_schedule, eta=0.31)},
    "tcd-sdxl": GUIDED | DDIM | {"deterministic": other(families.tcd_schedule, eta=0.0)},
}


@pytest.mark.parametrize(("name", "mistake"), [(name, m) for name, mistakes in MISTAKES.items() for m in mistakes])
def test_mistakes_are_caught_by_the_same_comparison(name, mistake, load_family, expected):
    family = MAIN[name]
    num_steps = 4 if 4 in family.steps else 1
    sampler = load_family(family, num_steps)
    noise, drawn = draw(sampler)
    states = expected(family, num_steps, noise)[1]
    mutate = MISTAKES[name][mistake]
    if mutate is None:
        assert error(sampler, noise, states, ["bad", "word"]) > CAUGHT
        return
    mutate(sampler)
    noise = replace(noise, steps=tuple(n if s else None for n, s in zip(drawn, sampler.stochastic, strict=True)))
    assert error(sampler, noise, states) > CAUGHT


def test_a_full_lcm_told_another_guidance_is_caught(load_family, expected):
    family = next(family for family in FAMILIES if family.base == "full_lcm")
    sampler = load_family(family, 4)
    noise, _ = draw(sampler)
    states = expected(family, 4, noise)[1]
    assert error(sampler, noise, states) <= TOLERANCE[family.dtype]
    assert error(sampler.replace(guidance_scale=family.guidance + 0.01), noise, states) > CAUGHT
