"""PeRFlow: piecewise rectified flow, one straight line per time window (Yan et al., 2024)."""

from __future__ import annotations

import itertools
import math

from guideflow.errors import InvalidArgument
from guideflow.schedule import Schedule
from guideflow_diffusers.noise import alpha_bar

TRAIN_STEPS = 1000
OFFICIAL_CONTROL = 0.95796674


def perflow_schedule(
    num_steps: int = 4, *, prediction: str = "diff_eps", windows: int = 4, control: str = "sampler"
) -> Schedule:
    """Table of a PeRFlow sampler.

    The network's epsilon joins the ends of its window, z_e = lam z_s + eta epsilon. From time t_c in [t_e, t_s] to t',

        D = lam (t_c - t_s) + (t_e - t_c),   r = (t' - t_c) / (t_e - t_c)
        z' = [1 + r (lam (t_e - t_s) / D - 1)] z + r eta (t_e - t_c) / D epsilon

    with g^2 = alpha_bar_s / alpha_bar_e, lam = 1 / g and, for `diff_eps`, eta = -sqrt(1 - g^2) / g.

    Arguments:
        num_steps: At least one per window; further ones subdivide the first windows.
        prediction: What the network was trained to give: "diff_eps" (SD 1.5 checkpoints).
        windows: Number of equal time windows the network was trained with.
        control: "sampler" for c_k = -eta_k / lam_k = sqrt(1 - g_k^2), the share of noise at the window's start;
            "unit" for 1, as in RectifID's Eq. 15; "official" for the constant of RectifID's script, which is the first
            window's factor used in all of them.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If there are fewer steps than windows, or an unknown word is given.

    Source: Yan et al., "PeRFlow: Piecewise Rectified Flow as Universal Plug-and-Play Accelerator", 2024, section 3.
    """
    if prediction != "diff_eps":
        raise InvalidArgument(f"Got prediction = {prediction!r}. Expected 'diff_eps'.")
    if control not in ("sampler", "unit", "official"):
        raise InvalidArgument(f"Got control = {control!r}. Expected 'sampler', 'unit' or 'official'.")
    if num_steps < windows:
        raise InvalidArgument(
            f"Got num_steps = {num_steps} for a PeRFlow with {windows} windows. Expected at least one step per window: "
            f"num_steps={windows} or more."
        )
    bounds = [TRAIN_STEPS * (windows - i) // windows for i in range(windows + 1)]
    times: list[float] = []
    state: list[float] = []
    output: list[float] = []
    factors: list[float] = []
    for window, (start, end) in enumerate(itertools.pairwise(bounds)):
        gamma = math.sqrt(_alpha_bar_at(start) / _alpha_bar_at(end))
        lam, eta = 1 / gamma, -math.sqrt(1 - gamma**2) / gamma
        pieces = num_steps // windows + (window < num_steps % windows)
        grid = [int(start + (end - start) * i / pieces) for i in range(pieces + 1)]
        for now, following in itertools.pairwise(grid):
            denominator = lam * (now - start) + (end - now)
            r = (following - now) / (end - now)
            times.append(now)
            state.append(1 + r * (lam * (end - start) / denominator - 1))
            output.append(r * eta * (end - now) / denominator)
            factors.append(-eta / lam)
    chosen = {"sampler": factors, "unit": [1.0] * num_steps, "official": [OFFICIAL_CONTROL] * num_steps}[control]
    return Schedule(times=tuple(times), state=tuple(state), output=tuple(output), control=tuple(chosen))


def _alpha_bar_at(time: int) -> float:
    """PeRFlow counts time from 1 to 1000; index 0 of the table also serves time 0."""
    return alpha_bar()[max(time - 1, 0)]
