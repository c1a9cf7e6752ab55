"""Hyper-SD: trajectory-segmented consistency distillation (Ren et al., 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from guideflow.sampler import Schedule
from guideflow_diffusers.factory import SD15, SDXL, make_sampler, own_lora
from guideflow_diffusers.pcm import pcm_schedule

if TYPE_CHECKING:
    from guideflow_diffusers.parts import LatentSampler

LORAS = {
    model: {k: f"ByteDance/Hyper-SD:Hyper-{name}-{k}step{'s' if k > 1 else ''}-lora.safetensors" for k in (1, 2, 4, 8)}
    for model, name in ((SD15, "SD15"), (SDXL, "SDXL"))
}


def hyper_sd_schedule(num_steps: int = 4, *, unified: bool = False, eta: float | None = None) -> Schedule:
    """Table of Hyper-SD: DDIM steps for the networks of a fixed number of steps, fresh noise for the unified one.

    The equation is that of `pcm_schedule`, on the grid "ddim" with eta 0, or for the unified network on the grid "tcd".

    Arguments:
        num_steps: 1 to 1000; 1 to 50 if unified, where 1 to 8 is what the network is for.
        unified: Whether the network is the one-step network, which serves every number of steps.
        eta: Share of fresh noise in [0, 1]; 1 for the unified network by default, 0 otherwise. Smaller ones give the
            unified network more detail in more steps.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If a number is out of range.

    Source: Ren et al., "Hyper-SD: Trajectory Segmented Consistency Model for Efficient Image Synthesis", 2024.
    """
    share = float(unified) if eta is None else eta
    return pcm_schedule(num_steps, grid="tcd" if unified else "ddim", eta=share)


def hyper_sd(
    *,
    checkpoint: str | Path = SD15,
    num_steps: int = 4,
    guidance_scale: float = 1.0,
    image_size: tuple[int, int] | int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    decoder_gradient: str | Path = "full",
    unified: bool = False,
    eta: float | None = None,
    lora: str | Path | None = None,
    lora_scale: float = 1.0,
    base: str | Path | None = None,
    variant: str | None = None,
) -> LatentSampler:
    """Hyper-SD on Stable Diffusion 1.5 or XL.

    Arguments:
        checkpoint: Hub id or local folder.
        num_steps: 1, 2, 4 or 8, for which there is a LoRA each; 1 to 8 if unified.
        guidance_scale: Guidance by prompt; off by default, as it is distilled into the networks.
        image_size: (height, width) in pixels or one number; the denoiser's own by default.
        dtype: "float32", "bfloat16", "float16" or "float64" of the denoiser; states stay in float32.
        device: Where it runs.
        decoder_gradient: "full", "tiled" or a small decoder (see `with_decoder_gradient`).
        unified: Whether to take the one-step LoRA, which serves every number of steps with fresh noise.
        eta: Share of fresh noise in [0, 1]; 1 if unified, 0 otherwise by default.
        lora: LoRA to merge into the denoiser. Without it, SD 1.5 and SDXL get the one of that number of steps; any
            other checkpoint is taken to be distilled already.
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
        hyper_sd_schedule(num_steps, unified=unified, eta=eta),
        checkpoint,
        guidance_scale=guidance_scale,
        image_size=image_size,
        dtype=dtype,
        device=device,
        decoder_gradient=decoder_gradient,
        base=base,
        variant=variant,
        lora=own_lora(lora, checkpoint, LORAS, 1 if unified else num_steps),
        lora_scale=lora_scale,
    )
