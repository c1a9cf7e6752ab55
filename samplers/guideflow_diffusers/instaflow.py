"""InstaFlow: a rectified flow distilled to a single step (Liu et al., 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from guideflow.errors import InvalidArgument
from guideflow.sampler import Schedule
from guideflow_diffusers.factory import make_sampler
from guideflow_diffusers.rectified_flow import rectified_flow_schedule

if TYPE_CHECKING:
    from guideflow_diffusers.parts import LatentSampler

CHECKPOINT = "XCLiu/instaflow_0_9B_from_sd_1_5"


def instaflow_schedule(num_steps: int = 1) -> Schedule:
    """Table of InstaFlow: z' = z + v(z, 1000), the whole path in one step.

    Arguments:
        num_steps: 1; the network knows no other time.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If there is not exactly one step.

    Source: Liu et al., "InstaFlow: One Step is Enough for High-Quality Diffusion-Based Text-to-Image Generation", 2023,
        Eq. 6.
    """
    if num_steps != 1:
        raise InvalidArgument(
            f"Got num_steps = {num_steps} for InstaFlow, which was distilled to one step. Expected num_steps=1; for "
            "more steps take the sampler rectified-flow."
        )
    return rectified_flow_schedule(1)


def instaflow(
    *,
    checkpoint: str | Path = CHECKPOINT,
    num_steps: int = 1,
    guidance_scale: float = 1.0,
    image_size: tuple[int, int] | int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    decoder_gradient: str | Path = "full",
    variant: str | None = None,
) -> LatentSampler:
    """InstaFlow on Stable Diffusion 1.5: one step.

    Arguments:
        checkpoint: Hub id or local folder.
        num_steps: 1.
        guidance_scale: Guidance by prompt; off by default, as it is distilled into the network.
        image_size: (height, width) in pixels or one number; 512 is what the network was trained on.
        dtype: "float32", "bfloat16", "float16" or "float64" of the denoiser; states stay in float32.
        device: Where it runs.
        decoder_gradient: "full", "tiled" or a small decoder (see `with_decoder_gradient`).
        variant: Which files of a Hub repository to take.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range, or the checkpoint cannot be read.
        MissingWeights: If something is on the Hub and cannot be fetched.
        MissingExtra: If diffusers is not installed.
    """
    return make_sampler(
        instaflow_schedule(num_steps),
        checkpoint,
        guidance_scale=guidance_scale,
        image_size=image_size,
        dtype=dtype,
        device=device,
        decoder_gradient=decoder_gradient,
        variant=variant,
    )
