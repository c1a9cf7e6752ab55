"""Qwen-Image-Lightning: Qwen-Image distilled to four or eight steps by LoRAs (ModelTC, 2025)."""

from __future__ import annotations

import guideflow as gf
from guideflow._given import count, in_range
from guideflow_diffusers.family import Family
from guideflow_diffusers.flow_loading import load_flow
from guideflow_diffusers.flow_steps import euler_schedule, even_grid

_BASE = "Qwen/Qwen-Image"


def qwen_lightning_schedule(num_steps: int = 4, *, shift: float = 3.0) -> gf.Schedule:
    """Table of Qwen-Image-Lightning: Euler's steps of a flow on an even grid, shifted whatever the size of the image.

        z' = z + (sigma' - sigma) v(z, 1000 sigma),    sigma = s t / (1 + (s - 1) t)
        t = 1, 1 - 1/K, ..., 1/K

    Arguments:
        num_steps: 1 or more; 4 and 8 have a LoRA.
        shift: s above; the LoRAs were distilled with 3.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If a number is out of range.

    Source: https://github.com/ModelTC/Qwen-Image-Lightning, generate_with_diffusers.py.
    """
    count("num_steps", num_steps)
    in_range("shift", shift, 1e-6)
    return euler_schedule(even_grid(num_steps, shift))


QWEN_IMAGE_LIGHTNING = Family(
    qwen_lightning_schedule,
    _BASE,
    base="Qwen-Image",
    summary="distribution matching distillation",
    steps="4 or 8",
    licence="Apache-2.0",
    commercial="yes",
    loras={_BASE: {k: f"lightx2v/Qwen-Image-Lightning:Qwen-Image-Lightning-{k}steps-V2.0.safetensors" for k in (4, 8)}},
    loader=load_flow,
    fixed={"model": "qwen-image", "reference": None},
)
