"""Every way to sample with diffusers parts, what it is compared with, and how."""

import functools
from dataclasses import dataclass, field, replace

import torch

import references
from guideflow.problem import draw_noise

PROMPTS, NEGATIVES = ["a cat", "two dogs"], ["bad", "worse"]


@dataclass(frozen=True)
class Case:
    """One way to sample: its name and options, the kind of checkpoint, legal numbers of steps, and the reference."""

    name: str
    base: str
    reference: object
    steps: tuple = (1, 2, 4, 8)
    options: dict = field(default_factory=dict)
    dtype: str = "float32"
    guidance: float = 2.0

    def __str__(self):
        return "-".join([self.name, self.base, *map(str, self.options.values())])


WINDOWED = {"steps": (4, 5, 6, 8, 21), "dtype": "float64"}
FAMILIES = [
    Case("perflow", "sd15", references.perflow, **WINDOWED),
    Case("perflow-sd21", "sd21", functools.partial(references.perflow, prediction="velocity"), **WINDOWED),
    Case("perflow-sdxl", "sdxl", functools.partial(references.perflow, prediction="ddim_eps"), **WINDOWED),
    Case("rectified-flow", "sd15", references.rectified_flow, dtype="float64"),
    Case("instaflow", "sd15", references.rectified_flow, (1,), dtype="float64"),
    Case("sd-turbo", "sd21", references.euler),
    Case("sd-turbo", "sd21", references.ancestral, options={"method": "ancestral"}),
    Case("sd-turbo", "sd21", references.sgm, (1, 2, 4), {"method": "sgm"}),
    Case("sdxl-turbo", "sdxl", references.ancestral, options={"image_size": 16}),
    Case("sdxl-turbo", "sdxl", references.euler, options={"image_size": 16, "method": "euler"}),
    Case("pcm", "sd15", references.ddim),
    Case("pcm", "sd15", references.tcd, options={"grid": "tcd"}),
    Case("pcm", "sd15", functools.partial(references.tcd, eta=0.3), options={"grid": "tcd", "eta": 0.3}),
    Case("pcm-sdxl", "sdxl", references.ddim),
    Case("pcm-sdxl", "sdxl", references.tcd, options={"grid": "tcd"}),
    Case("lcm", "sd15", references.lcm),
    Case("lcm", "sdxl", references.lcm),
    Case("lcm", "full_lcm", references.lcm, guidance=7.0),
    Case("sdxl-lightning", "sdxl", references.lightning),
    Case("hyper-sd", "sd15", references.ddim),
    Case("hyper-sd", "sdxl", references.ddim),
    Case("hyper-sd", "sd15", functools.partial(references.tcd, eta=1.0), options={"unified": True}),
    Case("hyper-sd", "sdxl", functools.partial(references.tcd, eta=0.5), options={"unified": True, "eta": 0.5}),
    Case("dmd2-sdxl", "sdxl", references.dmd2, (1, 4)),
    Case("tcd-sd15", "sd15", functools.partial(references.tcd, eta=0.3)),
    Case("tcd-sdxl", "sdxl", functools.partial(references.tcd, eta=0.3)),
]
MAIN = {family.name: family for family in reversed(FAMILIES)}  # the first of each name


def score(image):
    pattern = torch.randn(image.shape, generator=torch.Generator().manual_seed(5))
    return (image * pattern.to(image)).sum()


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def encode(sampler, negatives=NEGATIVES):
    return sampler.condition(PROMPTS, negatives if sampler.guided else None)


def run(sampler, noise, negatives=NEGATIVES):
    condition = encode(sampler, negatives)
    states = [sampler.prepare(noise.initial)]
    for k in range(sampler.num_steps):
        states.append(sampler.step(k, states[k], condition, noise.steps[k]))
    return states


@torch.no_grad()
def error(sampler, noise, states, negatives=NEGATIVES):
    """Largest relative difference of the first state, of any step from the reference's state, and along the chain."""
    condition = encode(sampler, negatives)
    chain = run(sampler, noise, negatives)
    steps = [sampler.step(k, states[k], condition, noise.steps[k]) for k in range(sampler.num_steps)]
    return max(relative(a, b) for a, b in zip(chain + steps, states + states[1:], strict=True))


def draw(sampler):
    """Frozen noise of every step, for mutants too that take more or less of it than they should."""
    noise = draw_noise(sampler, [0, 1])
    generator = torch.Generator().manual_seed(9)
    steps = tuple(torch.randn(noise.initial.shape, generator=generator).to(noise.initial) for _ in noise.steps)
    return replace(noise, steps=tuple(n if s else None for n, s in zip(steps, sampler.stochastic, strict=True))), steps
