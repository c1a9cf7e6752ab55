"""FLUX.2-klein: a flow transformer of 4 billion parameters that draws and edits (Black Forest Labs, 2026)."""

from __future__ import annotations

import math

import guideflow as gf
from guideflow._given import count
from guideflow_diffusers.family import Family
from guideflow_diffusers.flow_loading import load_flow
from guideflow_diffusers.flow_steps import euler_schedule, even_grid

_LINES = ((8.73809524e-5, 1.89833333), (1.6927e-4, 0.45666666))  # at 10 steps, and at 200 and for many tokens


def klein_mu(num_steps: int, tokens: int) -> float:
    """Return the shift mu of FLUX.2's grid: lines in the number of tokens, and between them in that of steps."""
    few, many = (slope * tokens + offset for slope, offset in _LINES)
    return many if tokens > 4300 else many + (few - many) * (200 - num_steps) / 190


def klein_schedule(num_steps: int = 4, *, image_size: tuple[int, int] | int | None = None) -> gf.Schedule:
    """Table of FLUX.2-klein: Euler's steps of a flow on an even grid, shifted by the size of the image.

        z' = z + (sigma' - sigma) v(z, 1000 sigma),    sigma = e^mu / (e^mu + 1/t - 1)
        t = 1, 1 - 1/K, ..., 1/K

    Three of four steps end above sigma 0.76, so controls there move layout and identity, and the last one the finished
    image.

    Arguments:
        num_steps: 1 or more; 4 is what the network is for.
        image_size: (height, width) in pixels, or one number for a square, which the grid depends on; 1024 by default.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If a number is out of range.

    Source: https://github.com/black-forest-labs/flux2, src/flux2/sampling.py.
    """
    count("num_steps", num_steps)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size or (1024, 1024)
    tokens = (height // 16) * (width // 16)
    return euler_schedule(even_grid(num_steps, math.exp(klein_mu(num_steps, tokens))))


FLUX2_KLEIN = Family(
    klein_schedule,
    "black-forest-labs/FLUX.2-klein-4B",
    base="FLUX.2 klein 4B",
    summary="flow transformer that draws and edits, distilled",
    steps="4, or more",
    licence="Apache-2.0",
    commercial="yes",
    loader=load_flow,
    fixed={"model": "flux2"},
)
