"""2-rectified flow: one straight line from noise to picture, in as many Euler steps as one likes (Liu et al., 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from guideflow.sampler import Schedule
from guideflow_diffusers.factory import SD15, make_sampler
from guideflow_diffusers.steps import TRAIN_STEPS, require_steps

if TYPE_CHECKING:
    from guideflow_diffusers.parts import LatentSampler

CHECKPOINT = "XCLiu/2_rectified_flow_from_sd_1_5"


def rectified_flow_schedule(num_steps: int = 4) -> Schedule:
    """Table of a rectified flow.

        z' = z + v(z, t) / K,   t = 1000, 1000 (1 - 1/K), ..., 1000 / K

    The network's velocity v points from noise to picture.

    Arguments:
        num_steps: K, 1 to 1000.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If the number of steps is out of range.

    Source: Liu et al., "InstaFlow: One Step is Enough for High-Quality Diffusion-Based Text-to-Image Generation", 2023,
        Eq. 2.
    """
    require_steps(num_steps, TRAIN_STEPS)
    times = tuple(TRAIN_STEPS * (1 - i / num_steps) for i in range(num_steps))
    ones = (1.0,) * num_steps
    return Schedule(times, state=ones, output=(1 / num_steps,) * num_steps)


def rectified_flow(
    *,
    checkpoint: str | Path = CHECKPOINT,
    num_steps: int = 4,
    guidance_scale: float = 1.5,
    image_size: tuple[int, int] | int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    decoder_gradient: str | Path = "full",
    style: str | Path | None = None,
    style_base: str | Path = SD15,
    variant: str | None = None,
) -> LatentSampler:
    """2-rectified flow on Stable Diffusion 1.5.

    RectifID's own results with it have `style="Lykon/dreamshaper-7"`: what that model changed in the denoiser is added,
    and its autoencoder and text encoder are used.

    Arguments:
        checkpoint: Hub id or local folder.
        num_steps: 1 or more; RectifID takes 4, the authors of the flow 25.
        guidance_scale: Guidance by prompt, 1 to 2; 1 or less switches it off.
        image_size: (height, width) in pixels or one number; 512 is what the network was trained on.
        dtype: "float32", "bfloat16", "float16" or "float64" of the denoiser; states stay in float32.
        device: Where it runs.
        decoder_gradient: "full", "tiled" or a small decoder (see `with_decoder_gradient`).
        style: Checkpoint of a fine-tuned SD 1.5 to merge.
        style_base: What `style` was fine-tuned from.
        variant: Which files of a Hub repository to take.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range, or the checkpoint cannot be read.
        MissingWeights: If something is on the Hub and cannot be fetched.
        MissingExtra: If diffusers is not installed.
    """
    return make_sampler(
        rectified_flow_schedule(num_steps),
        checkpoint,
        guidance_scale=guidance_scale,
        image_size=image_size,
        dtype=dtype,
        device=device,
        decoder_gradient=decoder_gradient,
        base=style,
        variant=variant,
        delta=None if style is None else (style, style_base),
    )
