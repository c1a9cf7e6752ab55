"""How a schedule sees the clean picture from every state."""

import math
from dataclasses import dataclass

from guideflow.errors import IncompatibleSolver
from guideflow.problem import Problem
from guideflow.sampler import AffineSampler, Schedule
from guideflow.types import Latent

_TOLERANCE = 0.1


@dataclass(frozen=True)
class Outlook:
    """How a schedule sees the clean picture from every state.

        x_k = state[k] z_k + output[k] f(z_k) + state[k + 1] u_{k+1},    z_k = signal[k] x + noise[k] n

    The first is what the remaining windows make of z_k, and of the control that follows, if the network's output stays
    what it is. Of velocities

        state = 1,  output[k] = b_k + .. + b_{K-1},  noise[k] = |output[k]|,  signal = 1 - noise

    and of predicted noise

        state[k] = a_k .. a_{K-1},   signal[k] = 1 / state[k],   noise = sqrt(1 - signal^2)
        output[k] = -state[k] s_k,   s_K = 0,   s_k = (s_{k+1} - b_k) / a_k
        s_k = noise[k]   with new noise in windows

    Arguments:
        state: K + 1 numbers, the last of which is 1.
        output: K numbers.
        signal: K + 1 numbers.
        noise: K + 1 numbers.
    """

    state: tuple[float, ...]
    output: tuple[float, ...]
    signal: tuple[float, ...]
    noise: tuple[float, ...]

    @classmethod
    def of(cls, schedule: Schedule) -> "Outlook | None":
        """Read a schedule; None if its windows are of neither kind."""
        K = len(schedule)
        if all(a == 1 for a in schedule.state) and not any(schedule.noise):
            output = tuple(sum(schedule.output[k:]) for k in range(K))
            noise = (*map(abs, output), 0.0)
            return cls((1.0,) * (K + 1), output, tuple(1 - level for level in noise), noise)
        if not all(schedule.state):
            return None
        state, spread = [1.0], [0.0]
        for k in reversed(range(K)):
            row = schedule[k]
            state.insert(0, row.state * state[0])
            spread.insert(0, (math.sqrt(max(spread[0] ** 2 - row.noise**2, 0)) - row.output) / row.state)
        signal = tuple(1 / a for a in state)
        noise = tuple(math.sqrt(max(1 - a**2, 0)) for a in signal)
        if any(schedule.noise):
            # Where steps are not variance-preserving, the table does not tell how clean they end.
            if any(abs(s - level) > _TOLERANCE for s, level in zip(spread, noise, strict=True)):
                return None
            spread = list(noise)
        output = tuple(-a * s for a, s in zip(state[:-1], spread[:-1], strict=True))
        return cls(tuple(state), output, signal, noise)


def outlook_of(problem: Problem, name: str, instead: str) -> tuple[Outlook, AffineSampler]:
    """Return the outlook of a problem's sampler, and the sampler; or refuse it by a name, and say what instead."""
    sampler = problem.sampler
    if not isinstance(sampler, AffineSampler):
        raise IncompatibleSolver(
            f"{name} needs the network itself, which an AffineSampler has and {type(sampler).__name__} hides. {instead}"
        )
    outlook = Outlook.of(sampler.schedule)
    if outlook is None:
        raise IncompatibleSolver(
            f"{name} needs the clean picture that is expected in the middle of a trajectory, which the schedule of "
            f"{type(sampler).__name__} does not tell. {instead}"
        )
    return outlook, sampler


def renoise(outlook: Outlook, k: int, z: Latent, noise: Latent) -> Latent:
    """Lead the end of window k back to its start with new noise."""
    ratio = outlook.signal[k] / outlook.signal[k + 1]
    level = math.sqrt(max(outlook.noise[k] ** 2 - (ratio * outlook.noise[k + 1]) ** 2, 0))
    return ratio * z + level * noise
