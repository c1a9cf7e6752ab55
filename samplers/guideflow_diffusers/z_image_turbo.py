"""Z-Image-Turbo: a single-stream flow transformer distilled to eight steps (Tongyi-MAI, 2025)."""

from __future__ import annotations

import guideflow as gf
from guideflow._given import count, in_range
from guideflow_diffusers.family import Family
from guideflow_diffusers.flow_loading import load_flow
from guideflow_diffusers.flow_steps import euler_schedule, even_grid


def z_image_schedule(num_steps: int = 8, *, shift: float = 3.0) -> gf.Schedule:
    """Table of Z-Image-Turbo: Euler's steps of a flow on an even grid, shifted.

        z' = z + (sigma' - sigma) v(z, 1000 sigma),    sigma = s t / (1 + (s - 1) t)
        t = 1, 1 - 1/K, ..., 1/K

    Arguments:
        num_steps: 1 or more; 8 is what the network is for. (Older examples say 9, whose last step had length 0.)
        shift: s above.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If a number is out of range.

    Source: https://github.com/Tongyi-MAI/Z-Image, config/model.py.
    """
    count("num_steps", num_steps)
    in_range("shift", shift, 1e-6)
    return euler_schedule(even_grid(num_steps, shift))


Z_IMAGE_TURBO = Family(
    z_image_schedule,
    "Tongyi-MAI/Z-Image-Turbo",
    base="Z-Image",
    summary="single-stream flow transformer, distilled",
    steps="8, or 4 and more",
    licence="Apache-2.0",
    commercial="yes",
    loader=load_flow,
    fixed={"model": "z-image", "reference": None},
)
