"""How noisy the states of a scheduler of diffusers are, measured at the scheduler, so that sampling may begin there."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import guideflow as gf
from guideflow.paths import flow_levels

Levels = tuple[float, float]

_TOLERANCE = 1e-4


def with_path(schedule: gf.Schedule, scheduler: Any, times: Tensor, scales: list[float]) -> gf.Schedule:
    """Add the path to a table that was read off a scheduler; as it is where the scheduler adds no noise itself.

    Levels are those of `add_noise` or `scale_noise` at the times of the table, in the units of the network's input.
    Where all steps are without noise and of one kind below, any time will do; otherwise only those of the table.

        epsilon    a = alpha' / alpha,                   b = sigma' - sigma a
        v          a = alpha alpha' + sigma sigma',      b = sigma' alpha - alpha' sigma
        flow       a = 1,                                b = sigma' - sigma

    Arguments:
        schedule: The table.
        scheduler: After `set_timesteps`.
        times: Of the scheduler, as it has them.
        scales: Of the network's input at each.
    """
    try:
        known = {float(t): _levels(scheduler, t, scale) for t, scale in zip(times, scales, strict=True)}
    except Exception:  # the classes are many, and some are users' own; without levels they draw as before
        return schedule
    signal = getattr(scheduler, "alphas_cumprod", None)
    between: Callable[[float], Levels] = flow_levels if signal is None else partial(_diffusion, tuple(signal.tolist()))
    levels, spacing = partial(_looked_up, known, between), int(signal is not None)
    starts = list(known.values())
    agreed = all(time == round(time) or not spacing for time in known)
    agreed = agreed and all(_close(between(time), level) for time, level in known.items())
    kinds = (_epsilon, _v) if spacing else (_flow,)
    for last in ((1.0, 0.0), between(0.0)):
        ends = [*starts[1:], last]
        for kind in kinds if agreed and not any(schedule.noise) else ():
            rows = [kind(start, end) for start, end in zip(starts, ends, strict=True)]
            found = list(zip(schedule.state, schedule.output, strict=True))
            if all(map(_close, rows, found)):
                path = gf.NoisePath(levels, partial(_row, kind, levels, last), spacing)
                return replace(schedule, path=path)
    return replace(schedule, path=gf.NoisePath(levels, spacing=spacing))


def _levels(scheduler: Any, time: Tensor, scale: float) -> Levels:
    """Measure what is left of a picture, and what comes of noise, in the input of the network."""
    own, one, nothing = copy.deepcopy(scheduler), torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    if hasattr(own, "scale_noise"):
        found = [own.scale_noise(x, time.view(1), n) for x, n in ((one, nothing), (nothing, one))]
    else:
        found = [own.add_noise(x, n, time.view(1)) for x, n in ((one, nothing), (nothing, one))]
    return scale * found[0].item(), scale * found[1].item()


def _diffusion(signal: tuple[float, ...], time: float) -> Levels:
    level = signal[round(time)]
    return math.sqrt(level), math.sqrt(1 - level)


def _looked_up(known: Mapping[float, Levels], between: Callable[[float], Levels], time: float) -> Levels:
    return known[time] if time in known else between(time)


def _row(
    kind: Callable[[Levels, Levels], Levels],
    levels: Callable[[float], Levels],
    last: Levels,
    time: float,
    end_time: float,
) -> tuple[float, float, float, float]:
    return *kind(levels(time), levels(end_time) if end_time else last), 0.0, 1.0


def _epsilon(start: Levels, end: Levels) -> Levels:
    a = end[0] / start[0]
    return a, end[1] - start[1] * a


def _v(start: Levels, end: Levels) -> Levels:
    return start[0] * end[0] + start[1] * end[1], end[1] * start[0] - end[0] * start[1]


def _flow(start: Levels, end: Levels) -> Levels:
    return 1.0, end[1] - start[1]


def _close(one: Levels, two: Levels) -> bool:
    return all(abs(a - b) <= _TOLERANCE * max(1, abs(b)) for a, b in zip(one, two, strict=True))
