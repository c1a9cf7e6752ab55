"""What every factory of this package does: read the options, load the parts, put the sampler together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from guideflow.errors import InvalidArgument
from guideflow.sampler import Schedule

if TYPE_CHECKING:
    from guideflow_diffusers.parts import Delta, LatentSampler

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


def make_sampler(
    schedule: Schedule,
    checkpoint: str | Path,
    *,
    guidance_scale: float,
    image_size: tuple[int, int] | int | None,
    dtype: str,
    device: str,
    decoder_gradient: str | Path = "full",
    base: str | Path | None = None,
    variant: str | None = None,
    delta: Delta | None = None,
    lora: str | Path | None = None,
    lora_scale: float = 1.0,
) -> LatentSampler:
    """Load the parts of a checkpoint and join them with a schedule.

    Arguments:
        schedule: The few-step family.
        checkpoint: Hub id, local folder, or whatever else `load_parts` takes.
        guidance_scale: Classifier-free guidance; 1 or less switches it off.
        image_size: (height, width) in pixels, one number for a square, the denoiser's own if None.
        dtype: "float32", "bfloat16", "float16" or "float64" of the denoiser.
        device: Where it runs.
        decoder_gradient: As `with_decoder_gradient` takes it.
        base: As `load_parts`.
        variant: As `load_parts`.
        delta: As `load_parts`.
        lora: As `load_parts`.
        lora_scale: As `load_parts`.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If `dtype` is another word, the image size does not fit, or the checkpoint cannot be read.
        MissingWeights: If the checkpoint is on the Hub and cannot be fetched.
        MissingExtra: If diffusers is not installed.
    """
    from guideflow_diffusers.decoding import load_decoder_gradient  # needs torch
    from guideflow_diffusers.parts import LatentSampler, load_parts

    parts = load_parts(
        checkpoint,
        base=base,
        variant=variant,
        delta=delta,
        lora=lora,
        lora_scale=lora_scale,
        dtype=dtype,
        device=device,
    )
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return LatentSampler(
        parts,
        schedule,
        guidance_scale=guidance_scale,
        image_size=size,
        decoder_gradient=load_decoder_gradient(decoder_gradient, parts.vae),
    )


def own_lora(
    lora: str | Path | None, checkpoint: str | Path, published: Mapping[str, Mapping[int, str]], num_steps: int
) -> str | Path | None:
    """Tell which LoRA turns a checkpoint into the family.

    Arguments:
        lora: The user's choice; it wins.
        checkpoint: What it is merged into.
        published: For each base model the family was published for, its LoRA by number of steps.
        num_steps: How many steps are asked for.

    Returns:
        The LoRA, or `None` for a checkpoint that is none of these base models: it is taken to be distilled already.

    Raises:
        InvalidArgument: If the family has no LoRA for that number of steps.
    """
    files = published.get(str(checkpoint))
    if lora is not None or files is None:
        return lora
    if num_steps not in files:
        raise InvalidArgument(
            f"Got num_steps = {num_steps}, for which no LoRA is published. Expected one of "
            f"{', '.join(map(str, files))}, or give the LoRA of your choice: lora=PATH."
        )
    return files[num_steps]
