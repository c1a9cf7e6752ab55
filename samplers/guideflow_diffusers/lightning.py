"""SDXL-Lightning: progressive adversarial diffusion distillation (Lin et al., 2024)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from guideflow.errors import InvalidArgument
from guideflow.sampler import Schedule
from guideflow_diffusers.factory import SDXL, make_sampler, own_lora
from guideflow_diffusers.noise import alpha_bar
from guideflow_diffusers.steps import TRAIN_STEPS
from guideflow_diffusers.turbo import turbo_schedule

if TYPE_CHECKING:
    from guideflow_diffusers.parts import LatentSampler

STEPS = (1, 2, 4, 8)
LORAS = {SDXL: {k: f"ByteDance/SDXL-Lightning:sdxl_lightning_{k}step_lora.safetensors" for k in STEPS[1:]}}
ONE_STEP = "ByteDance/SDXL-Lightning:sdxl_lightning_1step_unet_x0.safetensors"


def lightning_schedule(num_steps: int = 4) -> Schedule:
    """Table of SDXL-Lightning: deterministic Euler steps, as Turbo's; the one-step network gives the picture itself.

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
    if num_steps not in STEPS:
        raise InvalidArgument(
            f"Got num_steps = {num_steps} for SDXL-Lightning. Expected 1, 2, 4 or 8: each number of steps has a "
            "network of its own. Try num_steps=4."
        )
    if num_steps > 1:
        return turbo_schedule(num_steps, method="euler")
    noise = math.sqrt(1 - alpha_bar()[TRAIN_STEPS - 1])
    return Schedule(
        times=(TRAIN_STEPS - 1,),
        state=(0.0,),
        output=(1.0,),
        init_scale=noise,
    )


def sdxl_lightning(
    *,
    checkpoint: str | Path = SDXL,
    num_steps: int = 4,
    guidance_scale: float = 1.0,
    image_size: tuple[int, int] | int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    decoder_gradient: str | Path = "full",
    lora: str | Path | None = None,
    lora_scale: float = 1.0,
    base: str | Path | None = None,
    variant: str | None = None,
) -> LatentSampler:
    """SDXL-Lightning on Stable Diffusion XL.

    Arguments:
        checkpoint: Hub id or local folder. For one step the default stands for its own denoiser: there is no LoRA.
        num_steps: 1, 2, 4 or 8; each has a network of its own.
        guidance_scale: Guidance by prompt; off by default, as it is distilled into the networks.
        image_size: (height, width) in pixels or one number; 1024 is what the network was trained on.
        dtype: "float32", "bfloat16", "float16" or "float64" of the denoiser; states and autoencoder stay in float32.
        device: Where it runs.
        decoder_gradient: "full", "tiled" or a small decoder (see `with_decoder_gradient`).
        lora: LoRA to merge into the denoiser. Without it, the default checkpoint gets the one of that number of steps;
            any other checkpoint is taken to be distilled already.
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
    if num_steps == 1 and lora is None and str(checkpoint) == SDXL:
        checkpoint, base = ONE_STEP, SDXL
    return make_sampler(
        lightning_schedule(num_steps),
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
