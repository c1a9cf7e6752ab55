"""PCM for Stable Diffusion 3: a consistency model for each phase of the flow (Wang et al., 2024)."""

from __future__ import annotations

import guideflow as gf
from guideflow._given import count, in_range
from guideflow_diffusers.family import Family
from guideflow_diffusers.flow_loading import load_flow
from guideflow_diffusers.flow_steps import euler_schedule, renoise_schedule, shifted
from guideflow_diffusers.steps import CONSISTENCY_STEPS


def pcm_sd3_schedule(num_steps: int = 4, *, shift: float = 3.0, stochastic: bool = False) -> gf.Schedule:
    """Table of a phased consistency model of a flow, on the grid it was trained with.

        t = 1 - floor(k 50 / K) / 50,    sigma = s t / (1 + (s - 1) t)

        deterministic    z' = z + (sigma' - sigma) v(z, 1000 sigma)
        stochastic       z' = (1 - sigma') (z - sigma v(z, 1000 sigma)) + sigma' n

    Arguments:
        num_steps: 1 to 50; as many as the network has phases.
        shift: s above: 1 or 3, as the network was trained.
        stochastic: Whether the noise is replaced in every step, as the "stochastic" networks want.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If a number is out of range.

    Source: Wang et al., "Phased Consistency Models", 2024, section 3;
        https://github.com/G-U-N/Phased-Consistency-Model, for Stable Diffusion 3.
    """
    count("num_steps", num_steps, 1, CONSISTENCY_STEPS)
    in_range("shift", shift, 1e-6)
    chosen = (int(k * (CONSISTENCY_STEPS / num_steps)) for k in range(num_steps))
    sigmas = [shifted(1 - i / CONSISTENCY_STEPS, shift) for i in chosen]
    return renoise_schedule(sigmas) if stochastic else euler_schedule(sigmas)


_BASE = "stabilityai/stable-diffusion-3-medium-diffusers"
PCM_SD3 = Family(
    pcm_sd3_schedule,
    _BASE,
    base="SD 3 medium",
    summary="phased consistency model, with a LoRA of yours",
    steps="2 to 16",
    licence="LoRAs not stated; base Stability AI Community",
    commercial="not verified",
    loras={_BASE: {}},
    lora_hint="lora='wangfuyun/PCM_Weights:sd3/FILE.safetensors'",
    loader=load_flow,
    fixed={"model": "sd3", "reference": None},
)
