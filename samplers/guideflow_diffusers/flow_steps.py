"""What the schedules of flow matching share: shifted grids, Euler's step, and the step that replaces the noise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import guideflow as gf


def shifted(t: float, shift: float) -> float:
    """Shift a time of [0, 1] towards noise, s t / (1 + (s - 1) t); e^mu is the shift of `mu`."""
    return shift * t / (1 + (shift - 1) * t)


def even_grid(num_steps: int, shift: float = 1.0) -> list[float]:
    """Return sigma = 1, 1 - 1/K, ..., 1/K, each shifted."""
    return [shifted(1 - k / num_steps, shift) for k in range(num_steps)]


def euler_schedule(sigmas: Sequence[float]) -> gf.Schedule:
    """Table of Euler's steps of a flow.

        z' = z + (sigma' - sigma) v(z, 1000 sigma),    the last sigma' is 0

    Arguments:
        sigmas: High to low, without the 0 at the end.

    Returns:
        The schedule.
    """
    output = [end - start for start, end in itertools.pairwise([*sigmas, 0.0])]
    return gf.Schedule(tuple(1000 * s for s in sigmas), (1.0,) * len(sigmas), tuple(output))


def renoise_schedule(sigmas: Sequence[float], *, init_scale: float = 1.0) -> gf.Schedule:
    """Table of steps that go to the image of a flow and noise it anew, as consistency models do.

        x = z - sigma v(z, 1000 sigma),    z' = (1 - sigma') x + sigma' n,    the last sigma' is 0

    Arguments:
        sigmas: High to low, without the 0 at the end.
        init_scale: Standard deviation of the first state.

    Returns:
        The schedule.
    """
    ends = [*sigmas[1:], 0.0]
    return gf.Schedule(
        tuple(1000 * s for s in sigmas),
        tuple(1 - end for end in ends),
        tuple(-s * (1 - end) for s, end in zip(sigmas, ends, strict=True)),
        tuple(ends),
        init_scale=init_scale,
    )
