"""SANA-Sprint: a linear transformer as a consistency model, one to four steps (Chen et al., 2025)."""

from __future__ import annotations

import math

import guideflow as gf
from guideflow._given import count, in_range
from guideflow_diffusers.family import Family
from guideflow_diffusers.flow_loading import load_flow
from guideflow_diffusers.flow_steps import renoise_schedule

GUIDANCE = 4.5


def sana_schedule(num_steps: int = 2, *, max_angle: float = 1.5708, middle_angle: float = 1.3) -> gf.Schedule:
    """Table of SANA-Sprint: to the image and back to a lower noise, in the coordinates of the flow.

        sigma = sin a / (cos a + sin a),    x = z - sigma v(z, 1000 sigma),
        z' = (1 - sigma') x + sigma' n

    The angles a are even from `max_angle` to 0; with two steps they are `max_angle`, `middle_angle`, 0.

    Arguments:
        num_steps: 1 to 50; 1 to 4 is what the network is for.
        max_angle: Where sampling starts, in radians.
        middle_angle: Where the second of two steps starts.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If a number is out of range.

    Source: Chen et al., "SANA-Sprint: One-Step Diffusion with Continuous-Time Consistency Distillation", 2025,
        sections 2 and 3.
    """
    count("num_steps", num_steps, 1, 50)
    for name, angle in (("max_angle", max_angle), ("middle_angle", middle_angle)):
        in_range(name, angle, 1e-3, 1.6)
    angles = [max_angle * (1 - k / num_steps) for k in range(num_steps)]
    return angles_schedule([max_angle, middle_angle] if num_steps == 2 else angles)


def angles_schedule(angles: list[float]) -> gf.Schedule:
    """Make the table of a grid of angles, without the 0 at the end; the first state has the size of its angle."""
    lengths = [math.cos(a) + math.sin(a) for a in angles]
    sigmas = [math.sin(a) / length for a, length in zip(angles, lengths, strict=True)]
    return renoise_schedule(sigmas, init_scale=1 / lengths[0])


SANA_SPRINT = Family(
    sana_schedule,
    "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers",
    base="SANA-Sprint 1.6B",
    summary="continuous-time consistency model",
    steps="1 to 4",
    licence="NSCL v2-custom by copies of its card, with Gemma's terms; not verified",
    commercial="not verified",
    guidance_scale=GUIDANCE,
    told_guidance=True,
    loader=load_flow,
    fixed={"model": "sana", "reference": None},
)
