"""TCD: trajectory consistency distillation, to any lower noise level at once (Zheng et al., 2024)."""

from __future__ import annotations

from dataclasses import replace

import guideflow as gf
from guideflow_diffusers.family import SD15, SDXL, Family
from guideflow_diffusers.pcm import pcm_schedule
from guideflow_diffusers.steps import CONSISTENCY_STEPS


def tcd_schedule(num_steps: int = 4, *, eta: float = 0.3) -> gf.Schedule:
    """Table of a trajectory consistency model.

        x = (z - sqrt(1 - alpha_bar) epsilon) / sqrt(alpha_bar),   s = floor((1 - eta) t')
        z' = sqrt(alpha_bar' / alpha_bar_s) (sqrt(alpha_bar_s) x + sqrt(1 - alpha_bar_s) epsilon)
             + sqrt(1 - alpha_bar' / alpha_bar_s) n

    Arguments:
        num_steps: 1 to 50; 4 to 8 is what the networks are for.
        eta: Share of new noise, in [0, 1]; 0 is deterministic. More steps bear more.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If a number is out of range.

    Source: Zheng et al., "Trajectory Consistency Distillation", 2024, Algorithm 4, where eta is gamma.
    """
    return pcm_schedule(num_steps, grid="tcd", eta=eta)


TCD_SD15 = Family(
    tcd_schedule,
    SD15,
    base="SD 1.5",
    summary="trajectory consistency distillation",
    steps="1 to 50",
    licence="not stated; base CreativeML OpenRAIL-M",
    commercial="not verified",
    loras={SD15: dict.fromkeys(range(1, CONSISTENCY_STEPS + 1), "h1t/TCD-SD15-LoRA:pytorch_lora_weights.safetensors")},
)
TCD_SDXL = replace(
    TCD_SD15,
    checkpoint=SDXL,
    base="SDXL",
    licence="MIT; base OpenRAIL++",
    commercial="yes, with the licences' restrictions of use",
    loras={SDXL: dict.fromkeys(range(1, CONSISTENCY_STEPS + 1), "h1t/TCD-SDXL-LoRA:pytorch_lora_weights.safetensors")},
)
