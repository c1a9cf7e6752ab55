"""SD-Turbo and SDXL-Turbo: adversarial diffusion distillation (Sauer et al., 2023)."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING

from guideflow.sampler import Schedule
from guideflow_diffusers.factory import make_sampler
from guideflow_diffusers.noise import alpha_bar
from guideflow_diffusers.steps import (
    TRAIN_STEPS,
    noise_prediction_schedule,
    require_steps,
    require_word,
    trailing_grid,
)

if TYPE_CHECKING:
    from guideflow_diffusers.parts import LatentSampler

SGM_GRID = (999, 899, 799, 699)
SD_TURBO = "stabilityai/sd-turbo"
SDXL_TURBO = "stabilityai/sdxl-turbo"


def turbo_schedule(num_steps: int = 4, *, method: str = "euler") -> Schedule:
    """Table of a Turbo sampler, in variance-preserving coordinates.

        x = (z - sqrt(1 - alpha_bar) epsilon) / sqrt(alpha_bar),   s = sqrt((1 - alpha_bar) / alpha_bar)
        z' = (x + s_down epsilon + s_up n) / sqrt(1 + s'^2)

        euler             s_down = s',         s_up = 0
        ancestral, sgm    s_down = s'^2 / s,   s_up = s' sqrt(1 - s'^2 / s^2)

    The last step ends at s' = 0, the clean picture. Schedulers that count in s start from s_max n, which is
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
    require_word("method", method, ("euler", "ancestral", "sgm"))
    if method == "sgm":
        require_steps(num_steps, len(SGM_GRID))
    times = SGM_GRID[:num_steps] if method == "sgm" else trailing_grid(num_steps)
    signal = [alpha_bar()[t] for t in times] + [1.0]
    fresh = [0.0] * num_steps
    if method != "euler":
        fresh = [_fresh(start, end) for start, end in itertools.pairwise(signal)]
    init_scale = 1.0 if method == "sgm" else math.sqrt(1 - alpha_bar()[TRAIN_STEPS - 1])
    return noise_prediction_schedule(times, signal[1:], fresh, init_scale=init_scale)


def _fresh(start: float, end: float) -> float:
    """New noise of an ancestral step between two alpha_bar: s_up / sqrt(1 + s'^2)."""
    variance, next_variance = (1 - start) / start, (1 - end) / end
    return math.sqrt(end * next_variance * (1 - next_variance / variance))


def sd_turbo(
    *,
    checkpoint: str | Path = SD_TURBO,
    num_steps: int = 4,
    guidance_scale: float = 1.0,
    image_size: tuple[int, int] | int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    decoder_gradient: str | Path = "full",
    method: str = "euler",
    variant: str | None = None,
) -> LatentSampler:
    """SD-Turbo, made of Stable Diffusion 2.1.

    Arguments:
        checkpoint: Hub id or local folder.
        num_steps: 1 to 4 is what the network is for.
        guidance_scale: Guidance by prompt; off by default, as the network was trained without.
        image_size: (height, width) in pixels or one number; 512 is what the network was trained on.
        dtype: "float32", "bfloat16", "float16" or "float64" of the denoiser; prefer "bfloat16" to "float16", in which
            the attention of SD 2.1 overflows.
        device: Where it runs.
        decoder_gradient: "full", "tiled" or a small decoder (see `with_decoder_gradient`).
        method: "euler" (deterministic), "ancestral" or "sgm" (see `turbo_schedule`).
        variant: Which files of a Hub repository to take.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range, or the checkpoint cannot be read.
        MissingWeights: If something is on the Hub and cannot be fetched.
        MissingExtra: If diffusers is not installed.
    """
    return make_sampler(
        turbo_schedule(num_steps, method=method),
        checkpoint,
        guidance_scale=guidance_scale,
        image_size=image_size,
        dtype=dtype,
        device=device,
        decoder_gradient=decoder_gradient,
        variant=variant,
    )


def sdxl_turbo(
    *,
    checkpoint: str | Path = SDXL_TURBO,
    num_steps: int = 4,
    guidance_scale: float = 1.0,
    image_size: tuple[int, int] | int | None = 512,
    dtype: str = "float32",
    device: str = "cpu",
    decoder_gradient: str | Path = "full",
    method: str = "ancestral",
    variant: str | None = None,
) -> LatentSampler:
    """SDXL-Turbo, made of Stable Diffusion XL.

    Arguments:
        checkpoint: Hub id or local folder.
        num_steps: 1 to 4 is what the network is for.
        guidance_scale: Guidance by prompt; off by default, as the network was trained without.
        image_size: (height, width) in pixels or one number; 512 is what the network was trained on.
        dtype: "float32", "bfloat16", "float16" or "float64" of the denoiser; states and autoencoder stay in float32.
        device: Where it runs.
        decoder_gradient: "full", "tiled" or a small decoder (see `with_decoder_gradient`).
        method: "ancestral" (as published), "euler" (deterministic) or "sgm" (see `turbo_schedule`).
        variant: Which files of a Hub repository to take.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range, or the checkpoint cannot be read.
        MissingWeights: If something is on the Hub and cannot be fetched.
        MissingExtra: If diffusers is not installed.
    """
    return make_sampler(
        turbo_schedule(num_steps, method=method),
        checkpoint,
        guidance_scale=guidance_scale,
        image_size=image_size,
        dtype=dtype,
        device=device,
        decoder_gradient=decoder_gradient,
        variant=variant,
    )
