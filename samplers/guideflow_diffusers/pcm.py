"""PCM: phased consistency models, a consistency model for each phase of the noise (Wang et al., 2024)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import guideflow as gf
from guideflow._given import one_of
from guideflow.errors import InvalidArgument
from guideflow.sampler import alpha_bar
from guideflow_diffusers.family import SD15, SDXL, Family
from guideflow_diffusers.steps import (
    CONSISTENCY_STEPS,
    TRAIN_STEPS,
    consistency_grid,
    diffusion_levels,
    noise_prediction,
    noise_prediction_schedule,
    trailing_grid,
)


def pcm_schedule(num_steps: int = 4, *, grid: str = "ddim", eta: float = 0.0) -> gf.Schedule:
    """Table of a phased consistency model.

        x = (z - sqrt(1 - alpha_bar) epsilon) / sqrt(alpha_bar),   s = floor((1 - eta) t')
        z' = sqrt(alpha_bar' / alpha_bar_s) (sqrt(alpha_bar_s) x + sqrt(1 - alpha_bar_s) epsilon)
             + sqrt(1 - alpha_bar' / alpha_bar_s) n

    The last step ends at time 0, not at a noise of zero. Without eta this is a DDIM step.

    Arguments:
        num_steps: As many as the network has phases: 2, 4, 8 or 16, for which there is a LoRA each. Up to 1000 on the
            grid "ddim", up to 50 on "tcd".
        grid: Times; "ddim" for equal ones, 999, 749, 499, 249, which the networks were trained with, or "tcd" for those
            of the authors' demo, 999, 759, 499, 259.
        eta: Share of new noise, in [0, 1]; 0 is deterministic.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If a number is out of range or an unknown word is given.

    Source: Wang et al., "Phased Consistency Models", 2024, section 3; the stochastic step is that of Zheng et al.,
        "Trajectory Consistency Distillation", 2024, Algorithm 4.
    """
    one_of("grid", grid, ("ddim", "tcd"))
    if not 0 <= eta <= 1:
        raise InvalidArgument(f"Got eta={eta}. Expected a number from 0 to 1; eta=0 is deterministic.")
    times = trailing_grid(num_steps) if grid == "ddim" else consistency_grid(num_steps)
    ends = (*times[1:], 0)
    signal = [alpha_bar()[end] for end in ends]
    spacing = 1 if grid == "ddim" else TRAIN_STEPS // CONSISTENCY_STEPS
    path = gf.NoisePath(diffusion_levels, partial(_row, eta), spacing=spacing)
    return noise_prediction_schedule(times, signal, [_noise(eta, end) for end in ends], path=path)


def _row(eta: float, time: float, end_time: float) -> tuple[float, float, float, float]:
    """Return the step from one time to another."""
    start, end = (alpha_bar()[int(t)] for t in (time, end_time))
    noise = _noise(eta, int(end_time))
    return *noise_prediction(start, end, noise), noise, 1.0


def _noise(eta: float, end: int) -> float:
    return (1 - alpha_bar()[end] / alpha_bar()[int((1 - eta) * end)]) ** 0.5


PCM = Family(
    pcm_schedule,
    SD15,
    base="SD 1.5",
    summary="phased consistency model",
    steps="2, 4, 8 or 16",
    licence="not stated; base CreativeML OpenRAIL-M",
    # The "smallcfg" ones, without classifier-free guidance; "normalcfg" ones take 2.5 to 3.5 with 4 steps.
    loras={
        model: {
            k: f"wangfuyun/PCM_Weights:{name}/pcm_{name}_smallcfg_{k}step_converted.safetensors" for k in (2, 4, 8, 16)
        }
        for model, name in ((SD15, "sd15"), (SDXL, "sdxl"))
    },
)
PCM_SDXL = replace(PCM, checkpoint=SDXL, base="SDXL", licence="not stated; base OpenRAIL++")
