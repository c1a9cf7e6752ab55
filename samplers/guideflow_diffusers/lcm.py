"""LCM: latent consistency models, from every noise level to the image at once (Luo et al., 2023)."""

from __future__ import annotations

import itertools
import math

import guideflow as gf
from guideflow.sampler import alpha_bar
from guideflow_diffusers.family import SD15, SDXL, Family
from guideflow_diffusers.steps import CONSISTENCY_STEPS, TRAIN_STEPS, consistency_grid, diffusion_levels

SIGMA_DATA = 0.5
TIME_SCALE = 10.0


def lcm_schedule(num_steps: int = 4) -> gf.Schedule:
    """Table of a latent consistency model.

        x = (z - sqrt(1 - alpha_bar) epsilon) / sqrt(alpha_bar),   y = c_out x + c_skip z
        z' = sqrt(alpha_bar') y + sqrt(1 - alpha_bar') n,          the last step gives y

    with c_skip = 0.25 / ((10 t)^2 + 0.25) and c_out = 10 t / sqrt((10 t)^2 + 0.25). Every step but the last replaces
    the noise altogether, so steps are stochastic.

    Arguments:
        num_steps: 1 to 50; 4 to 8 is what the networks are for.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If the number of steps is out of range.

    Source: Luo et al., "Latent Consistency Models", 2023, Algorithm 3 and appendix (skip and output scales).
    """
    times = consistency_grid(num_steps)
    state, output, noise, gain = zip(*(_row(*ends) for ends in itertools.pairwise((*times, 0))), strict=True)
    path = gf.NoisePath(diffusion_levels, _row, spacing=TRAIN_STEPS // CONSISTENCY_STEPS)
    return gf.Schedule(times, state, output, noise, gain, path=path)


def _row(time: float, end_time: float) -> tuple[float, float, float, float]:
    """Return the step from one time to another, or to the clean image at 0."""
    signal, end = alpha_bar()[int(time)], alpha_bar()[int(end_time)] if end_time else 1.0
    scaled = TIME_SCALE * time
    skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
    out = scaled / math.sqrt(scaled**2 + SIGMA_DATA**2)
    state = math.sqrt(end) * (out / math.sqrt(signal) + skip)
    return state, -math.sqrt(end) * out * math.sqrt((1 - signal) / signal), math.sqrt(1 - end), 1.0


LCM = Family(
    lcm_schedule,
    SD15,  # with its LoRA; a full model is "SimianLuo/LCM_Dreamshaper_v7"
    base="SD 1.5 or SDXL",
    summary="latent consistency model",
    steps="1 to 50",
    licence="OpenRAIL++; base CreativeML OpenRAIL-M",
    commercial="yes, with the licences' restrictions of use",
    guidance_scale=None,  # off with a LoRA, which bears at most 2; told to a full model
    loras={
        model: dict.fromkeys(
            range(1, CONSISTENCY_STEPS + 1), f"latent-consistency/lcm-lora-{name}:pytorch_lora_weights.safetensors"
        )
        for model, name in ((SD15, "sdv1-5"), (SDXL, "sdxl"))
    },
)
