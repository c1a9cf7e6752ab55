"""The table that turns a network into a few-step sampler."""

import math
from dataclasses import dataclass, fields

from guideflow.errors import InvalidArgument


@dataclass(frozen=True)
class Schedule:
    """Coefficients of the affine steps of a sampler, one entry per step.

        z_{k+1} = state[k] * z_k + output[k] * f(z_k, times[k]) + noise[k] * n_k,      z_0 = init_scale * n

    All known few-step families (PeRFlow, rectified flow, InstaFlow, Turbo, PCM) are rows of such a table once states
    are written in variance-preserving coordinates.

    Arguments:
        times: time given to the network at each step, in the network's own unit.
        state: factor a_k of the state.
        output: factor b_k of the network's output.
        noise: factor d_k of the frozen noise; 0 where the step is deterministic.
        control: control factor c_k, the relative step size that anchored guidance gives to each window.
        init_scale: standard deviation of the first state.
        end_times: time at the end of each step's window; by default the start of the next one, and 0 for the last.
    """

    times: tuple[float, ...]
    state: tuple[float, ...]
    output: tuple[float, ...]
    noise: tuple[float, ...] = ()
    control: tuple[float, ...] = ()
    init_scale: float = 1.0
    end_times: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Fill in the defaults and refuse a table that cannot be sampled from."""
        num_steps = len(self.times)
        if num_steps == 0:
            raise InvalidArgument("Schedule got no times. Expected one entry per step, at least one.")
        defaults = {
            "noise": (0.0,) * num_steps,
            "control": (1.0,) * num_steps,
            "end_times": (*self.times[1:], 0.0),
        }
        for column in ("times", "state", "output", "noise", "control", "end_times"):
            values = tuple(float(value) for value in getattr(self, column)) or defaults.get(column, ())
            if len(values) != num_steps:
                raise InvalidArgument(
                    f"Schedule got {len(values)} values for `{column}` and {num_steps} for `times`. "
                    "Expected one value per step in every column."
                )
            if not all(map(math.isfinite, values)):
                raise InvalidArgument(f"Schedule got `{column}` = {values}. Expected finite numbers only.")
            object.__setattr__(self, column, values)
        if not (math.isfinite(self.init_scale) and self.init_scale > 0):
            raise InvalidArgument(f"Schedule got `init_scale` = {self.init_scale}. Expected a finite number above 0.")

    @property
    def num_steps(self) -> int:
        """Number of steps."""
        return len(self.times)

    def __str__(self) -> str:
        """Return the table, one line per column."""
        return "\n".join(f"{field.name:>10}  {getattr(self, field.name)}" for field in fields(self))
