"""SD-Turbo and SDXL-Turbo: adversarial diffusion distillation (Sauer et al., 2023)."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import partial

import guideflow as gf
from guideflow._given import count, one_of
from guideflow.sampler import alpha_bar
from guideflow_diffusers.family import Family
from guideflow_diffusers.steps import (
    TRAIN_STEPS,
    diffusion_levels,
    noise_prediction,
    noise_prediction_schedule,
    trailing_grid,
)

SGM_GRID = (999, 899, 799, 699)


def turbo_schedule(num_steps: int = 4, *, method: str = "euler") -> gf.Schedule:
    """Table of a Turbo sampler, in variance-preserving coordinates.

        x = (z - sqrt(1 - alpha_bar) epsilon) / sqrt(alpha_bar),   s = sqrt((1 - alpha_bar) / alpha_bar)
        z' = (x + s_down epsilon + s_up n) / sqrt(1 + s'^2)

        euler             s_down = s',         s_up = 0
        ancestral, sgm    s_down = s'^2 / s,   s_up = s' sqrt(1 - s'^2 / s^2)

    The last step ends at s' = 0, the clean image. Schedulers that count in s start from s_max n, which is
    sqrt(1 - alpha_bar_max) n here; Stability's own demo starts from n.

    Arguments:
        num_steps: 1 to 4 is what the networks are for; up to 1000, with "sgm" up to 4.
        method: "euler" (deterministic, SD-Turbo's own scheduler), "ancestral" (SDXL-Turbo's own), or "sgm": ancestral
            steps at times 999, 899, 799, 699, as in Stability's demo.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If the number of steps is out of range or an unknown word is given.

    Source: Sauer et al., "Adversarial Diffusion Distillation", 2023, section 3; steps of Karras et al., "Elucidating
        the Design Space of Diffusion-Based Generative Models", 2022.
    """
    one_of("method", method, ("euler", "ancestral", "sgm"))
    if method == "sgm":
        count("num_steps", num_steps, 1, len(SGM_GRID))
    times = SGM_GRID[:num_steps] if method == "sgm" else trailing_grid(num_steps)
    signal = [alpha_bar()[t] for t in times] + [1.0]
    noise = [_noise(method, *ends) for ends in itertools.pairwise(signal)]
    init_scale = 1.0 if method == "sgm" else math.sqrt(1 - alpha_bar()[TRAIN_STEPS - 1])
    path = gf.NoisePath(diffusion_levels, partial(_row, method), spacing=1)
    return noise_prediction_schedule(times, signal[1:], noise, init_scale=init_scale, path=path)


def _row(method: str, time: float, end_time: float) -> tuple[float, float, float, float]:
    """Return the step from one time to another, or to the clean image at 0."""
    start, end = alpha_bar()[int(time)], alpha_bar()[int(end_time)] if end_time else 1.0
    noise = _noise(method, start, end)
    return *noise_prediction(start, end, noise), noise, 1.0


def _noise(method: str, start: float, end: float) -> float:
    """Level of new noise in a step between two alpha_bar, of an ancestral one s_up / sqrt(1 + s'^2)."""
    if method == "euler":
        return 0.0
    variance, next_variance = (1 - start) / start, (1 - end) / end
    return math.sqrt(end * next_variance * (1 - next_variance / variance))


SD_TURBO = Family(
    turbo_schedule,
    "stabilityai/sd-turbo",
    base="SD 2.1 at 512x512",
    summary="adversarial diffusion distillation",
    steps="1 to 4",
    licence="Stability AI Non-Commercial Research Community",
    commercial="no",
)
SDXL_TURBO = replace(
    SD_TURBO,
    schedule=partial(turbo_schedule, method="ancestral"),
    checkpoint="stabilityai/sdxl-turbo",
    base="SDXL at 512x512",
    image_size=512,
)
