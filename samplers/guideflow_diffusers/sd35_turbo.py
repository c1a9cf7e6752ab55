"""SD3.5-large-turbo (Stability AI, 2024), SD3.5-medium-turbo (TensorArt, 2025): Stable Diffusion 3.5 in few steps."""

from __future__ import annotations

from functools import partial

import guideflow as gf
from guideflow._given import count, in_range, one_of
from guideflow_diffusers.family import Family
from guideflow_diffusers.flow_loading import load_flow
from guideflow_diffusers.flow_steps import euler_schedule, even_grid, shifted

_COMMUNITY = "below 1 million US dollars of yearly revenue"
_LAST = 0.001  # the end of the training grid, in t


def sd3_schedule(num_steps: int = 4, *, shift: float = 3.0, grid: str = "released") -> gf.Schedule:
    """Table of Stable Diffusion 3: Euler's steps of a flow.

        z' = z + (sigma' - sigma) v(z, 1000 sigma),    sigma = s t / (1 + (s - 1) t)

        released    t even from 1 to s 0.001 / (1 + (s - 1) 0.001)
        even        t = 1, 1 - 1/K, ..., 1/K

    Arguments:
        num_steps: 1 or more; 4 to 8 is what the networks are for.
        shift: s above.
        grid: "released": what the published code of SD3.5-large-turbo and diffusers take, which shift ends that are
            shifted already; with 4 steps 1, 0.858, 0.602, 0.009. "even": shifted once, 1, 0.9, 0.75, 0.5.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If a number is out of range or an unknown word is given.

    Source: Esser et al., "Scaling Rectified Flow Transformers", 2024, Eq. (23); the grid of
        https://github.com/Stability-AI/sd3.5, sd3_infer.py.
    """
    count("num_steps", num_steps)
    in_range("shift", shift, 1e-6)
    one_of("grid", grid, ("released", "even"))
    if grid == "even":
        return euler_schedule(even_grid(num_steps, shift))
    last = shifted(_LAST, shift)
    times = [1 - k * (1 - last) / max(num_steps - 1, 1) for k in range(num_steps)]
    return euler_schedule([shifted(t, shift) for t in times])


SD35_LARGE_TURBO = Family(
    sd3_schedule,
    "stabilityai/stable-diffusion-3.5-large-turbo",
    base="SD 3.5 large",
    summary="adversarial diffusion distillation",
    steps="4 to 8",
    licence="Stability AI Community",
    commercial=_COMMUNITY,
    loader=load_flow,
    fixed={"model": "sd3", "reference": None},
)
SD35_MEDIUM_TURBO = Family(
    partial(sd3_schedule, num_steps=8),
    "tensorart/stable-diffusion-3.5-medium-turbo",
    base="SD 3.5 medium",
    summary="phased consistency distillation",
    steps="4 to 8",
    licence="Stability AI Community, as its base",
    commercial=f"{_COMMUNITY}; not verified at the repository itself",
    guidance_scale=1.5,
    loader=load_flow,
    fixed={"model": "sd3", "reference": None},
)
