"""DMD2: distribution matching distillation of SDXL (Yin et al., 2024)."""

from __future__ import annotations

import math

import guideflow as gf
from guideflow._given import one_of
from guideflow.sampler import alpha_bar
from guideflow_diffusers.family import SDXL, Family

TIMES = {1: (399,), 4: (999, 749, 499, 249)}


def dmd2_schedule(num_steps: int = 4) -> gf.Schedule:
    """Table of DMD2: to the image, and back to a lower noise; the last step gives the image.

        x = (z - sqrt(1 - alpha_bar) epsilon) / sqrt(alpha_bar)
        z' = sqrt(alpha_bar') x + sqrt(1 - alpha_bar') n

    Arguments:
        num_steps: 4, at times 999, 749, 499, 249; or 1, at time 399, which has a network of its own.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If there is no network for that number of steps.

    Source: Yin et al., "Improved Distribution Matching Distillation for Fast Image Synthesis", 2024, section 4.3.
    """
    one_of("num_steps", num_steps, tuple(TIMES))
    times = TIMES[num_steps]
    state, output, noise = [], [], []
    for t, end in zip(times, [*(alpha_bar()[t] for t in times[1:]), 1.0], strict=True):
        signal = alpha_bar()[t]
        state.append(math.sqrt(end / signal))
        output.append(-math.sqrt(end * (1 - signal) / signal))
        noise.append(math.sqrt(1 - end))
    return gf.Schedule(times, tuple(state), tuple(output), tuple(noise))


DMD2_SDXL = Family(
    dmd2_schedule,
    SDXL,
    base="SDXL",
    summary="distribution matching distillation",
    steps="4, or 1 with a checkpoint of it",
    licence="CC BY-NC 4.0",
    commercial="no",
    loras={SDXL: {4: "tianweiy/DMD2:dmd2_sdxl_4step_lora_fp16.safetensors"}},
)
