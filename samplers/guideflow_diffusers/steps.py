"""What the schedules share: time grids, and steps of a network that predicts noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import guideflow as gf
from guideflow._given import count
from guideflow.sampler import alpha_bar

TRAIN_STEPS = 1000
CONSISTENCY_STEPS = 50


def trailing_grid(num_steps: int) -> tuple[int, ...]:
    """Equal steps down from the last index of the noise schedule, as `timestep_spacing="trailing"` has it.

    Arguments:
        num_steps: 1 to 1000.

    Returns:
        Indices, high to low; (999, 749, 499, 249) for four.

    Raises:
        InvalidArgument: If the number of steps is out of range.
    """
    count("num_steps", num_steps, 1, TRAIN_STEPS)
    # numpy.arange takes the difference of its first two entries, which decides a tie (48 steps).
    stride = TRAIN_STEPS - (TRAIN_STEPS - TRAIN_STEPS / num_steps)
    return tuple(round(TRAIN_STEPS - i * stride) - 1 for i in range(num_steps))


def consistency_grid(num_steps: int) -> tuple[int, ...]:
    """Evenly chosen indices out of the 50 that LCM and TCD are trained on; (999, 759, 499, 259) for four."""
    count("num_steps", num_steps, 1, CONSISTENCY_STEPS)
    stride = TRAIN_STEPS // CONSISTENCY_STEPS
    # Floating point on purpose: diffusers floors i * (50 / K), not (50 * i) // K.
    chosen = (int(i * (CONSISTENCY_STEPS / num_steps)) for i in range(num_steps))
    return tuple((CONSISTENCY_STEPS - i) * stride - 1 for i in chosen)


def noise_prediction_schedule(
    times: Sequence[int],
    signal: Sequence[float],
    noise: Sequence[float] = (),
    *,
    init_scale: float = 1.0,
    path: gf.NoisePath | None = None,
) -> gf.Schedule:
    """Table of a network that predicts noise: go to the clean image, and back to a lower noise level.

        x = (z - sqrt(1 - alpha_bar) epsilon) / sqrt(alpha_bar)
        z' = sqrt(alpha_bar') x + sqrt(1 - alpha_bar' - d^2) epsilon + d n

    Arguments:
        times: Indices into the noise schedule, high to low.
        signal: alpha_bar' at the end of each step, in (0, 1].
        noise: Level d of new noise in each step, in [0, sqrt(1 - alpha_bar')]; 0 by default.
        init_scale: Standard deviation of the first state.
        path: For samplers that may begin at a picture between two steps; None for those that begin at one.

    Returns:
        The schedule.

    Source: Song et al., "Denoising Diffusion Implicit Models", 2021, Eq. (12).
    """
    noise = tuple(noise) or (0.0,) * len(times)
    rows = [noise_prediction(alpha_bar()[t], end, d) for t, end, d in zip(times, signal, noise, strict=True)]
    state, output = zip(*rows, strict=True)
    path = path or gf.NoisePath(diffusion_levels, spacing=1)
    return gf.Schedule(tuple(times), state, output, noise=noise, init_scale=init_scale, path=path)


def noise_prediction(start: float, end: float, noise: float) -> tuple[float, float]:
    """Return the factors a and b of one step between two alpha_bar; see `noise_prediction_schedule`."""
    a = math.sqrt(end / start)
    return a, math.sqrt(max(1 - end - noise * noise, 0.0)) - a * math.sqrt(1 - start)


def diffusion_levels(time: float) -> tuple[float, float]:
    """Levels of signal and noise at an index of the noise schedule: sqrt(alpha_bar), sqrt(1 - alpha_bar)."""
    signal = alpha_bar()[int(time)]
    return math.sqrt(signal), math.sqrt(1 - signal)


def reach(schedule: gf.Schedule) -> tuple[float, ...]:
    """Return -b_k / a_k: how far a network that predicts noise reaches back to the start of each step.

    `gf.Anchored(gain=reach(sampler.schedule))` edits less in late windows, whose image is almost clean. Where the
    factors average 0.6, the same reach takes a `scale` larger by 1.7.

    Arguments:
        schedule: Of a network that predicts noise.

    Returns:
        One factor per step.
    """
    return tuple(-b / a for a, b in zip(schedule.state, schedule.output, strict=True))
