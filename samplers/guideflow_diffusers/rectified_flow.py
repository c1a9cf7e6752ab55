"""Rectified flow: one straight line from noise to image, in many steps or, as InstaFlow, in one (Liu et al., 2023)."""

from __future__ import annotations

from dataclasses import replace

import guideflow as gf
from guideflow._given import count
from guideflow.errors import InvalidArgument
from guideflow.paths import flow_levels
from guideflow_diffusers.family import Family
from guideflow_diffusers.steps import TRAIN_STEPS


def rectified_flow_schedule(num_steps: int = 4) -> gf.Schedule:
    """Table of a rectified flow.

        z' = z + v(z, t) / K,   t = 1000, 1000 (1 - 1/K), ..., 1000 / K

    The network's velocity v points from noise to image.

    Arguments:
        num_steps: K, 1 to 1000; RectifID takes 4, the authors of the flow 25.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If the number of steps is out of range.

    Source: Liu et al., "InstaFlow: One Step is Enough for High-Quality Diffusion-Based Text-to-Image Generation", 2023,
        Eq. (2).
    """
    count("num_steps", num_steps, 1, TRAIN_STEPS)
    times = tuple(TRAIN_STEPS * (1 - i / num_steps) for i in range(num_steps))
    ones, path = (1.0,) * num_steps, gf.NoisePath(flow_levels, _row)
    return gf.Schedule(times, state=ones, output=(1 / num_steps,) * num_steps, path=path)


def _row(time: float, end_time: float) -> tuple[float, float, float, float]:
    """Return the step from one time to another."""
    return 1.0, (time - end_time) / TRAIN_STEPS, 0.0, 1.0


def instaflow_schedule(num_steps: int = 1) -> gf.Schedule:
    """Table of InstaFlow, a rectified flow distilled to one step: z' = z + v(z, 1000).

    Arguments:
        num_steps: 1; the network knows no other time.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If there is not exactly one step.

    Source: Liu et al., "InstaFlow: One Step is Enough for High-Quality Diffusion-Based Text-to-Image Generation", 2023,
        Eq. (6).
    """
    if num_steps != 1:
        raise InvalidArgument(f"Got num_steps={num_steps}. Expected num_steps=1; for more take rectified-flow.")
    return replace(rectified_flow_schedule(1), path=gf.NoisePath(flow_levels))


RECTIFIED_FLOW = Family(
    rectified_flow_schedule,
    "XCLiu/2_rectified_flow_from_sd_1_5",
    base="SD 1.5",
    summary="2-rectified flow",
    steps="1 or more",
    licence="CC BY-NC 4.0",
    commercial="no",
    guidance_scale=1.5,
)
INSTAFLOW = replace(
    RECTIFIED_FLOW,
    schedule=instaflow_schedule,
    checkpoint="XCLiu/instaflow_0_9B_from_sd_1_5",
    summary="distilled rectified flow",
    steps="1",
    guidance_scale=1.0,
)
