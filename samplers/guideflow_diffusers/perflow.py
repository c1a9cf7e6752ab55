"""PeRFlow: piecewise rectified flow, one straight line per time window (Yan et al., 2024)."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import partial

import guideflow as gf
from guideflow._given import count, one_of
from guideflow.errors import InvalidArgument
from guideflow.sampler import alpha_bar
from guideflow_diffusers.family import Family
from guideflow_diffusers.steps import TRAIN_STEPS, diffusion_levels


def perflow_schedule(num_steps: int = 4, *, prediction: str = "diff_eps", windows: int = 4) -> gf.Schedule:
    """Table of a PeRFlow sampler.

    The network's epsilon joins the ends of its window, z_e = lam z_s + eta epsilon. From time t_c in [t_e, t_s] to t',

        D = lam (t_c - t_s) + (t_e - t_c),   r = (t' - t_c) / (t_e - t_c)
        z' = [1 + r (lam (t_e - t_s) / D - 1)] z + r eta (t_e - t_c) / D epsilon

    with g^2 = alpha_bar_s / alpha_bar_e, lam = 1 / g and

        diff_eps   eta = -sqrt(1 - g^2) / g                                 independent noise at both ends
        ddim_eps   eta = sqrt(1 - alpha_bar_e) - lam sqrt(1 - alpha_bar_s)  one noise for both ends

    A `velocity` network goes straight: z' = z + (t' - t_c) / 1000 v.

    The gain is -eta / lam for `diff_eps`, the share of noise at the window's start, and 1 for the others. RectifID's
    script has the first window's gain in all of them: `gf.Anchored(gain=0.95796674)`.

    Arguments:
        num_steps: At least one per window; further ones subdivide the first windows.
        prediction: What the network was trained to give: "diff_eps" (SD 1.5 checkpoints), "velocity" (SD 2.1) or
            "ddim_eps" (SDXL).
        windows: Number of equal time windows the network was trained with.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If there are fewer steps than windows, or an unknown word is given.

    Source: Yan et al., "PeRFlow: Piecewise Rectified Flow as Universal Plug-and-Play Accelerator", 2024, section 3.
    """
    one_of("prediction", prediction, ("diff_eps", "ddim_eps", "velocity"))
    count("windows", windows)
    count("num_steps", num_steps, 1, TRAIN_STEPS // 2)
    if num_steps < windows:
        raise InvalidArgument(f"Got num_steps={num_steps}. Expected num_steps={windows} or more, one for each window.")
    bounds = [i / windows for i in range(windows, -1, -1)]
    times: list[int] = []
    for window, (start, end) in enumerate(itertools.pairwise(bounds)):
        pieces = num_steps // windows + (window < num_steps % windows)
        # Truncated from floating point on purpose, as by the published scheduler: 99, not 100, of twenty steps.
        times += [int((start + i * ((end - start) / pieces)) * TRAIN_STEPS) for i in range(pieces)]
    rows = [_row(now, following, bounds, prediction) for now, following in itertools.pairwise((*times, 0))]
    state, output, gain = zip(*rows, strict=True)
    path = gf.NoisePath(partial(_levels, bounds), partial(_path_row, bounds, prediction))
    return gf.Schedule(tuple(times), state, output, gain=gain, path=path)


def _levels(bounds: list[float], time: float) -> tuple[float, float]:
    """Return the levels of signal and noise: of the noise schedule at the ends of windows, linear in between."""
    start, end = next(ends for ends in itertools.pairwise(bounds) if time >= ends[1] * TRAIN_STEPS)
    share = (time / TRAIN_STEPS - end) / (start - end)
    (alpha, sigma), (alpha_end, sigma_end) = (_at(bound * TRAIN_STEPS) for bound in (start, end))
    return share * alpha + (1 - share) * alpha_end, share * sigma + (1 - share) * sigma_end


def _at(bound: float) -> tuple[float, float]:
    # PeRFlow counts time from 1 to 1000; index 0 of the table also serves time 0.
    return diffusion_levels(max(bound - 1, 0))


def _path_row(bounds: list[float], prediction: str, time: float, end_time: float) -> tuple[float, float, float, float]:
    """Return the step from one time to another."""
    state, output, gain = _row(time, end_time, bounds, prediction)
    return state, output, 0.0, gain


def _row(now: float, following: float, bounds: list[float], prediction: str) -> tuple[float, float, float]:
    """Return the factors of state and output, and the gain, of the step between two times."""
    if prediction == "velocity":
        return 1.0, (following - now) / TRAIN_STEPS, 1.0
    # A time within a tenth of a step of a window's end belongs to the next window.
    window = next(ends for ends in itertools.pairwise(bounds) if now > ends[1] * TRAIN_STEPS + 0.1)
    start, end = (bound * TRAIN_STEPS for bound in window)
    # PeRFlow counts time from 1 to 1000; index 0 of the table also serves time 0.
    signal_start, signal_end = (alpha_bar()[max(int(time - 1), 0)] for time in (start, end))
    gamma = math.sqrt(signal_start / signal_end)
    lam, eta = 1 / gamma, -math.sqrt(1 - gamma**2) / gamma
    gain = -eta / lam
    if prediction == "ddim_eps":
        eta, gain = math.sqrt(1 - signal_end) - lam * math.sqrt(1 - signal_start), 1.0
    denominator = lam * (now - start) + (end - now)
    r = (following - now) / (end - now)
    return 1 + r * (lam * (end - start) / denominator - 1), r * eta * (end - now) / denominator, gain


PERFLOW = Family(
    perflow_schedule,
    "hansyan/perflow-sd15-dreamshaper",
    base="SD 1.5",
    summary="piecewise rectified flow",
    steps="4 or more",
    licence="CC BY-NC 4.0",
    commercial="no",
    guidance_scale=3.0,  # RectifID's; the authors of PeRFlow use 4.5 with 4 steps, 6 with 6, 7.5 with 8
)
PERFLOW_SD21 = replace(
    PERFLOW,
    schedule=partial(perflow_schedule, prediction="velocity"),
    checkpoint="hansyan/perflow-sd21-artius",
    base="SD 2.1",
    guidance_scale=4.5,
)
PERFLOW_SDXL = replace(
    PERFLOW,
    schedule=partial(perflow_schedule, prediction="ddim_eps"),
    checkpoint="hansyan/perflow-sdxl-dreamshaper",
    base="SDXL",
    guidance_scale=1.0,  # RectifID's; the authors of PeRFlow use 1.5 to 2.5 with 6 steps
    variants={f"hansyan/perflow-sdxl-{name}": "v0-fix" for name in ("dreamshaper", "base")},
)
