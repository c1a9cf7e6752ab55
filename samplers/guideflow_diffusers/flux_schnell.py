"""FLUX.1-schnell: a rectified flow transformer distilled to a few steps (Black Forest Labs, 2024)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import guideflow as gf
from guideflow._devices import as_device, as_dtype
from guideflow._given import count
from guideflow._require import require, without_progress_bars
from guideflow.errors import InvalidArgument
from guideflow.paths import flow_levels
from guideflow_diffusers.family import Family

if TYPE_CHECKING:
    from guideflow_diffusers.flow import FlowSampler


def flux_schedule(num_steps: int = 4) -> gf.Schedule:
    """Table of FLUX.1-schnell: Euler's steps of a flow on an even grid.

        z' = z + (sigma' - sigma) v(z, 1000 sigma),    sigma = 1, 1 - 1/K, ..., 1/K, then 0

    Arguments:
        num_steps: 1 or more; 1 to 4 is what the network is for.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If the number of steps is out of range.

    Source: https://github.com/black-forest-labs/flux, src/flux/sampling.py, without the shift, as for schnell.
    """
    count("num_steps", num_steps)
    times = tuple(1000 * (1 - k / num_steps) for k in range(num_steps))
    path = gf.NoisePath(flow_levels, _row)
    return gf.Schedule(times, (1.0,) * num_steps, (-1 / num_steps,) * num_steps, path=path)


def _row(time: float, end_time: float) -> tuple[float, float, float, float]:
    """Return the step from one time to another."""
    return 1.0, (end_time - time) / 1000, 0.0, 1.0


def load_flux(
    schedule: gf.Schedule,
    checkpoint: str | Path,
    *,
    guidance_scale: float = 1.0,
    image_size: tuple[int, int] | int | None = None,
    max_sequence_length: int = 256,
    dtype: str = "float32",
    device: str = "cpu",
    decoder_gradient: str | Path = "full",
    keep_text_encoder: bool = True,
    base: str | Path | None = None,
    variant: str | None = None,
    lora: str | Path | None = None,
    lora_scale: float = 1.0,
) -> FlowSampler:
    """Load the networks of a FLUX.1 checkpoint and join them with a schedule.

    Arguments:
        schedule: The few-step family.
        checkpoint: Hub id or local folder of the model; of the transformer alone together with `base`.
        guidance_scale: Of classifier-free guidance, which doubles the cost and takes a negative prompt; 1 or less
            switches it off.
        image_size: (height, width) in pixels, or one number for a square; by default the autoencoder's own.
        max_sequence_length: How many tokens of a prompt the second text encoder reads.
        dtype: "float32", "bfloat16", "float16" or "float64" of transformer and text encoders; states and autoencoder
            stay in float32 at least.
        device: Where it runs.
        decoder_gradient: "full"; or for less memory "tiled", or the folder or Hub id of a small decoder.
        keep_text_encoder: Whether the text encoders stay in memory. If not, they are loaded for the first prompt and
            dropped; a prompt that is new has them loaded again, which a warning tells.
        base: Checkpoint to take everything from but the transformer.
        variant: Which files of a Hub repository to take, such as "fp16".
        lora: LoRA to merge into the transformer.
        lora_scale: How strongly to merge it.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range, or the checkpoint cannot be read.
        MissingWeights: If something is on the Hub and cannot be fetched.
        MissingExtra: If diffusers is not installed.
    """
    from guideflow_diffusers import checkpoints  # these need torch
    from guideflow_diffusers.flow import FlowSampler
    from guideflow_diffusers.flux import FluxAdapter, FluxText
    from guideflow_diffusers.hub import COMPONENTS, find_weights, locate
    from guideflow_diffusers.lora import merge_lora
    from guideflow_diffusers.text_parts import TextOnDemand
    from guideflow_diffusers.weights import Weights

    kind, where = as_dtype(dtype), as_device(device)
    source = locate(checkpoint, variant=variant, components=COMPONENTS if base is None else checkpoints.DENOISERS)
    rest = source if base is None else locate(base, option="base", variant=variant)
    checkpoints.require_complete(source, rest)
    diffusers = require("diffusers", extra="diffusers")

    options = partial(_options, rest, variant)
    with without_progress_bars("diffusers"):
        transformer = checkpoints.load_denoiser(source, variant=variant, strict=True, dtype=kind)
        if not isinstance(transformer, diffusers.FluxTransformer2DModel):
            raise InvalidArgument(
                f"{checkpoint} has a {type(transformer).__name__}. Expected a FluxTransformer2DModel."
            )
        vae = diffusers.AutoencoderKL.from_pretrained(
            rest / "vae", torch_dtype=checkpoints.vae_dtype(kind), **options("vae")
        )
        load_text = partial(FluxText.load, rest, options, max_sequence_length=max_sequence_length, dtype=kind)
        text = load_text(device=device) if keep_text_encoder else TextOnDemand(partial(load_text, device="cpu"), where)
    if lora is not None:
        merge_lora({"transformer": transformer}, Weights(find_weights(lora, option="lora")), lora_scale)
    return FlowSampler(
        transformer.to(device),
        vae.to(device),
        FluxAdapter(),
        schedule,
        text,
        guidance_scale=guidance_scale,
        image_size=image_size,
        decoder_gradient=decoder_gradient,
    )


def _options(folder: Path, variant: str | None, name: str) -> dict[str, object]:
    from guideflow_diffusers.checkpoints import has_variant

    return {"variant": variant if has_variant(folder / name, variant) else None, "use_safetensors": True}


FLUX_SCHNELL = Family(
    flux_schedule,
    "black-forest-labs/FLUX.1-schnell",
    base="FLUX.1",
    summary="rectified flow transformer, distilled",
    steps="1 to 4, or more",
    licence="Apache-2.0",
    commercial="yes",
    loader=load_flux,
)
