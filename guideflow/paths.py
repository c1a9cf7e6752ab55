"""How noisy the states of a few-step family are at each time, so that sampling may begin at a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from guideflow.errors import InvalidArgument

if TYPE_CHECKING:
    from guideflow.sampler import Schedule

_FULL = 1000
"""Time of pure noise, in every network's unit."""
_SMALLEST = 1.0
_SAME = 1e-3


@dataclass(frozen=True)
class NoisePath:
    """What the states of a family are between a picture and noise, and the steps between any two times.

        z_t = alpha_t x + sigma_t n,      z_{t'} = a z_t + b f(z_t, t) + d n'

    Functions must be importable by name (or `functools.partial` of such), so that samplers go to other processes.

    Arguments:
        levels: alpha_t and sigma_t by time.
        row: a, b, d and the gain c of the step from a time to an end time, by both; an end time of 0 is the finished
            picture. None for networks that know no times but those of their steps.
        spacing: 0 if any time in (0, 1000] will do. Otherwise times are whole numbers from 0 to 999, the multiples of
            it less 1.
    """

    levels: Callable[[float], tuple[float, float]]
    row: Callable[[float, float], tuple[float, float, float, float]] | None = None
    spacing: int = 0

    def time(self, strength: float) -> float:
        """Return the time at which sampling with a strength begins, the nearest there is."""
        if not self.spacing:
            return max(_FULL * strength, _SMALLEST)
        return float(self.spacing * max(round(_FULL * strength / self.spacing), 1) - 1)

    def strength(self, time: float) -> float:
        """Return the strength with which sampling begins at a time."""
        return (time + bool(self.spacing)) / _FULL


def flow_levels(time: float) -> tuple[float, float]:
    """Levels of a straight line from picture to noise: 1 - t / 1000 and t / 1000."""
    return 1 - time / _FULL, time / _FULL


def beginning_at(schedule: Schedule, strength: float) -> Schedule:
    """Return the steps that are left from a noise level on, the first of them shortened.

    Arguments:
        schedule: With a path, unless strength is 1.
        strength: The level as a share of the way from picture to noise, in (0, 1]: of sigma for flows, and of the
            noise schedule's 1000 times for diffusion models. 1 is the schedule itself.

    Raises:
        InvalidArgument: If it is out of range, or the sampler cannot begin there; the message says where it can.
    """
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 < strength <= 1:
        raise InvalidArgument(
            f"Got strength={strength!r}. Expected a number above 0, which would keep the picture as it is, and at most "
            "1, which forgets it; such as 0.6."
        )
    if strength == 1:
        return schedule
    path, times = path_of(schedule), schedule.times
    time = min(path.time(strength), times[0])
    left = next((k for k, start in enumerate(times) if start <= time + _SAME), len(times))
    table = {name: getattr(schedule, name)[left:] for name in ("times", "state", "output", "noise", "gain")}
    if table["times"] and time - table["times"][0] <= _SAME:
        return replace(schedule, **table)
    if path.row is None:
        there = sorted({*(f"{path.strength(start):.6g}" for start in times[1:]), "1"})
        more = "or more steps" if len(times) > 1 else "which forgets the picture, or take a sampler of more steps"
        raise InvalidArgument(
            f"Got strength={strength}, where this sampler cannot begin, only where one of its steps does. "
            f"Expected {', '.join(there)}, {more}."
        )
    state, output, noise, gain = path.row(time, table["times"][0] if table["times"] else 0.0)
    first = {"times": time, "state": state, "output": output, "noise": noise, "gain": gain}
    return replace(schedule, **{name: (first[name], *values) for name, values in table.items()})


def path_of(schedule: Schedule) -> NoisePath:
    """Return the path of a schedule, or say that there is none."""
    if schedule.path is None:
        raise InvalidArgument(
            "This sampler cannot begin at a picture: its schedule does not say how noisy its states are. Give "
            "gf.Schedule(..., path=gf.NoisePath(...)), or leave start= out."
        )
    return schedule.path
