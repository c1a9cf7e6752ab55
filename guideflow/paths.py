"""How noisy the states of a few-step family are at each time, so that sampling may begin at a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class NoisePath:
    """What the states of a family are between a picture and noise, and the steps between any two times.

        z_t = alpha_t x + sigma_t n,      z_{t'} = a z_t + b f(z_t, t) + d n'

    Functions must be importable by name (or `functools.partial` of such), so that samplers go to other processes.

    Arguments:
        levels: alpha_t and sigma_t by time.
        row: a, b, d and the gain c of the step from a time to an end time, by both; an end time of 0 is the finished
            picture. None for networks that know no times but those of their steps.
        spacing: 0 if any time up to `full` will do. Otherwise times are whole numbers from 0, the multiples of it
            less 1.
        full: Time of pure noise.
    """

    levels: Callable[[float], tuple[float, float]]
    row: Callable[[float, float], tuple[float, float, float, float]] | None = None
    spacing: int = 0
    full: float = 1000.0

    def time(self, strength: float) -> float:
        """Return the time at which sampling with a strength begins, the nearest there is."""
        if not self.spacing:
            return self.full * max(strength, 0.001)
        return float(self.spacing * max(round(self.full * strength / self.spacing), 1) - 1)

    def strength(self, time: float) -> float:
        """Return the strength with which sampling begins at a time."""
        return (time + bool(self.spacing)) / self.full


def flow_levels(time: float) -> tuple[float, float]:
    """Levels of a straight line from picture to noise: 1 - t / 1000 and t / 1000."""
    return 1 - time / 1000, time / 1000
