"""LCM: latent consistency models, from every noise level to the picture at once (Luo et al., 2023)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from guideflow.sampler import Schedule
from guideflow_diffusers.factory import SD15, SDXL, make_sampler, own_lora
from guideflow_diffusers.noise import alpha_bar
from guideflow_diffusers.steps import CONSISTENCY_STEPS, consistency_grid

if TYPE_CHECKING:
    from guideflow_diffusers.parts import LatentSampler

SIGMA_DATA = 0.5
TIME_SCALE = 10.0
FULL_GUIDANCE = 8.5
LORAS = {
    model: dict.fromkeys(range(1, CONSISTENCY_STEPS + 1), f"latent-consistency/{name}:pytorch_lora_weights.safetensors")
    for model, name in ((SD15, "lcm-lora-sdv1-5"), (SDXL, "lcm-lora-sdxl"))
}


def lcm_schedule(num_steps: int = 4) -> Schedule:
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
    state, output, noise = [], [], []
    for k, t in enumerate(times):
        signal = alpha_bar()[t]
        following = 1.0 if k + 1 == num_steps else alpha_bar()[times[k + 1]]
        scaled = TIME_SCALE * t
        skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        out = scaled / math.sqrt(scaled**2 + SIGMA_DATA**2)
        state.append(math.sqrt(following) * (out / math.sqrt(signal) + skip))
        output.append(-math.sqrt(following) * out * math.sqrt((1 - signal) / signal))
        noise.append(math.sqrt(1 - following))
    return Schedule(
        times=times,
        state=tuple(state),
        output=tuple(output),
        noise=tuple(noise),
    )


def lcm(
    *,
    checkpoint: str | Path = SD15,
    num_steps: int = 4,
    guidance_scale: float | None = None,
    image_size: tuple[int, int] | int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    decoder_gradient: str | Path = "full",
    lora: str | Path | None = None,
    lora_scale: float = 1.0,
    base: str | Path | None = None,
    variant: str | None = None,
) -> LatentSampler:
    """LCM on Stable Diffusion 1.5 or XL: a full consistency model, or a base model with its LCM-LoRA.

    Arguments:
        checkpoint: Hub id or local folder; a full model is "SimianLuo/LCM_Dreamshaper_v7".
        num_steps: 1 to 50; 4 to 8 is what the networks are for.
        guidance_scale: For a full model the guidance it is told to imitate, 8.5 by default; for a LoRA guidance by
            prompt, off by default and at most 2.
        image_size: (height, width) in pixels or one number; the denoiser's own by default.
        dtype: "float32", "bfloat16", "float16" or "float64" of the denoiser; states stay in float32.
        device: Where it runs.
        decoder_gradient: "full", "tiled" or a small decoder (see `with_decoder_gradient`).
        lora: LoRA to merge into the denoiser. Without it, SD 1.5 and SDXL get their LCM-LoRA; any other checkpoint is
            taken to be an LCM already.
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
    sampler = make_sampler(
        lcm_schedule(num_steps),
        checkpoint,
        guidance_scale=1.0 if guidance_scale is None else guidance_scale,
        image_size=image_size,
        dtype=dtype,
        device=device,
        decoder_gradient=decoder_gradient,
        base=base,
        variant=variant,
        lora=own_lora(lora, checkpoint, LORAS, num_steps),
        lora_scale=lora_scale,
    )
    full = bool(sampler.parts.unet.config.get("time_cond_proj_dim"))
    if guidance_scale is None and full:
        return type(sampler)(
            sampler.parts,
            sampler.schedule,
            guidance_scale=FULL_GUIDANCE,
            image_size=sampler.image_size,
            decoder_gradient=sampler.decoder_gradient,
        )
    return sampler
