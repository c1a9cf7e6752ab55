"""SDXL-Lightning: progressive adversarial diffusion distillation (Lin et al., 2024)."""

from __future__ import annotations

import math

import guideflow as gf
from guideflow._given import one_of
from guideflow.sampler import alpha_bar
from guideflow_diffusers.family import SDXL, Family
from guideflow_diffusers.steps import TRAIN_STEPS, diffusion_levels
from guideflow_diffusers.turbo import turbo_schedule


def lightning_schedule(num_steps: int = 4) -> gf.Schedule:
    """Table of SDXL-Lightning: deterministic Euler steps, as Turbo's; the one-step network gives the image itself.

        x = (z - sqrt(1 - alpha_bar) epsilon) / sqrt(alpha_bar)
        z' = sqrt(alpha_bar') x + sqrt(1 - alpha_bar') epsilon       K > 1; the last alpha_bar' is 1
        z' = f(z, 999)                                               K = 1

    Arguments:
        num_steps: 1, 2, 4 or 8; there is a network for each.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If there is no network for that number of steps.

    Source: Lin et al., "SDXL-Lightning: Progressive Adversarial Diffusion Distillation", 2024, section 3.
    """
    one_of("num_steps", num_steps, (1, 2, 4, 8))
    if num_steps > 1:
        return turbo_schedule(num_steps, method="euler")
    noise = math.sqrt(1 - alpha_bar()[TRAIN_STEPS - 1])
    path = gf.NoisePath(diffusion_levels, spacing=1)
    return gf.Schedule((TRAIN_STEPS - 1,), state=(0.0,), output=(1.0,), init_scale=noise, path=path)


SDXL_LIGHTNING = Family(
    lightning_schedule,
    SDXL,
    base="SDXL",
    summary="adversarial progressive distillation",
    steps="1, 2, 4 or 8",
    licence="OpenRAIL++",
    commercial="yes, with the licence's restrictions of use",
    loras={SDXL: {k: f"ByteDance/SDXL-Lightning:sdxl_lightning_{k}step_lora.safetensors" for k in (2, 4, 8)}},
    denoisers={SDXL: {1: "ByteDance/SDXL-Lightning:sdxl_lightning_1step_unet_x0.safetensors"}},
)
