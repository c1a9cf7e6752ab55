"""PCM: phased consistency models, a consistency model for each phase of the noise (Wang et al., 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from guideflow.errors import InvalidArgument
from guideflow.sampler import Schedule
from guideflow_diffusers.factory import SD15, SDXL, make_sampler, own_lora
from guideflow_diffusers.noise import alpha_bar
from guideflow_diffusers.steps import (
    consistency_grid,
    noise_prediction_schedule,
    require_word,
    trailing_grid,
)

if TYPE_CHECKING:
    from guideflow_diffusers.parts import LatentSampler

LORAS = {
    model: {k: f"wangfuyun/PCM_Weights:{name}/pcm_{name}_smallcfg_{k}step_converted.safetensors" for k in (2, 4, 8, 16)}
    for model, name in ((SD15, "sd15"), (SDXL, "sdxl"))
}


def pcm_schedule(num_steps: int = 4, *, grid: str = "ddim", eta: float = 0.0) -> Schedule:
    """Table of a phased consistency model.

        x = (z - sqrt(1 - alpha_bar) epsilon) / sqrt(alpha_bar),   s = floor((1 - eta) t')
        z' = sqrt(alpha_bar' / alpha_bar_s) (sqrt(alpha_bar_s) x + sqrt(1 - alpha_bar_s) epsilon)
             + sqrt(1 - alpha_bar' / alpha_bar_s) n

    The last step ends at time 0, not at a noise of zero. Without eta this is a DDIM step.

    Arguments:
        num_steps: 1 to 1000 on the grid "ddim", 1 to 50 on "tcd"; as many as the network has phases is best.
        grid: Times; "ddim" for equal ones, 999, 749, 499, 249, which the networks were trained with, or "tcd" for those
            of the authors' demo, 999, 759, 499, 259.
        eta: Share of fresh noise, in [0, 1]; 0 is deterministic.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If a number is out of range or an unknown word is given.

    Source: Wang et al., "Phased Consistency Models", 2024, section 3; the stochastic step is that of Zheng et al.,
        "Trajectory Consistency Distillation", 2024, Algorithm 4.
    """
    require_word("grid", grid, ("ddim", "tcd"))
    if not 0 <= eta <= 1:
        raise InvalidArgument(f"Got eta = {eta}. Expected a number from 0 to 1; eta=0 is deterministic.")
    times = trailing_grid(num_steps) if grid == "ddim" else consistency_grid(num_steps)
    ends = (*times[1:], 0)
    signal = [alpha_bar()[end] for end in ends]
    fresh = [(1 - alpha_bar()[end] / alpha_bar()[int((1 - eta) * end)]) ** 0.5 for end in ends]
    return noise_prediction_schedule(times, signal, fresh)


def pcm(
    *,
    checkpoint: str | Path = SD15,
    num_steps: int = 4,
    guidance_scale: float = 1.0,
    image_size: tuple[int, int] | int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    decoder_gradient: str | Path = "full",
    grid: str = "ddim",
    eta: float = 0.0,
    lora: str | Path | None = None,
    lora_scale: float = 1.0,
    base: str | Path | None = None,
    variant: str | None = None,
) -> LatentSampler:
    """PCM on Stable Diffusion 1.5.

    Arguments:
        checkpoint: Hub id or local folder.
        num_steps: 2, 4, 8 or 16, for which there is a LoRA each.
        guidance_scale: Guidance by prompt; off by default. The "normalcfg" LoRAs take 2.5 to 3.5 with 4 steps.
        image_size: (height, width) in pixels or one number; 512 is what the network was trained on.
        dtype: "float32", "bfloat16", "float16" or "float64" of the denoiser; states stay in float32.
        device: Where it runs.
        decoder_gradient: "full", "tiled" or a small decoder (see `with_decoder_gradient`).
        grid: "ddim" or "tcd" (see `pcm_schedule`).
        eta: Share of fresh noise, in [0, 1].
        lora: LoRA to merge into the denoiser. Without it, the default checkpoint gets the "smallcfg" one of that number
            of steps; any other checkpoint is taken to be a PCM already.
        lora_scale: How strongly to merge it.
        base: Checkpoint to take everything from but the denoiser.
        variant: Which files of a Hub repository to take.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range, or the checkpoint cannot be read.
        MissingWeights: If something is on the Hub and cannot be fetched.
        MissingExtra: If diffusers is not installed.
    """
    return make_sampler(
        pcm_schedule(num_steps, grid=grid, eta=eta),
        checkpoint,
        guidance_scale=guidance_scale,
        image_size=image_size,
        dtype=dtype,
        device=device,
        decoder_gradient=decoder_gradient,
        base=base,
        variant=variant,
        lora=own_lora(lora, checkpoint, LORAS, num_steps),
        lora_scale=lora_scale,
    )


def pcm_sdxl(
    *,
    checkpoint: str | Path = SDXL,
    num_steps: int = 4,
    guidance_scale: float = 1.0,
    image_size: tuple[int, int] | int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    decoder_gradient: str | Path = "full",
    grid: str = "ddim",
    eta: float = 0.0,
    lora: str | Path | None = None,
    lora_scale: float = 1.0,
    base: str | Path | None = None,
    variant: str | None = None,
) -> LatentSampler:
    """PCM on Stable Diffusion XL; options as those of `pcm`.

    Arguments:
        checkpoint: Hub id or local folder.
        num_steps: 2, 4, 8 or 16, for which there is a LoRA each.
        guidance_scale: Guidance by prompt; off by default.
        image_size: (height, width) in pixels or one number; 1024 is what the network was trained on.
        dtype: "float32", "bfloat16", "float16" or "float64" of the denoiser; states and autoencoder stay in float32.
        device: Where it runs.
        decoder_gradient: "full", "tiled" or a small decoder (see `with_decoder_gradient`).
        grid: "ddim" or "tcd" (see `pcm_schedule`).
        eta: Share of fresh noise, in [0, 1].
        lora: LoRA to merge into the denoiser; by default as in `pcm`.
        lora_scale: How strongly to merge it.
        base: Checkpoint to take everything from but the denoiser.
        variant: Which files of a Hub repository to take.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range, or the checkpoint cannot be read.
        MissingWeights: If something is on the Hub and cannot be fetched.
        MissingExtra: If diffusers is not installed.
    """
    return pcm(
        checkpoint=checkpoint,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        image_size=image_size,
        dtype=dtype,
        device=device,
        decoder_gradient=decoder_gradient,
        grid=grid,
        eta=eta,
        lora=lora,
        lora_scale=lora_scale,
        base=base,
        variant=variant,
    )
