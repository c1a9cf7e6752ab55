"""What guideflow asks of a generator: a few differentiable maps and a decoder."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, final

from guideflow._answers import state_like
from guideflow._given import as_numbers, in_range, plain_number
from guideflow._process import InOwnState
from guideflow._told import said
from guideflow.errors import InvalidArgument
from guideflow.paths import NoisePath
from guideflow.pickling import state_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from guideflow.types import Image, Latent


class Sampler(InOwnState, ABC):
    """A frozen few-step generator.

    z_0 = prepare(noise),   z_k = step(k - 1, z_{k-1}, condition, n_{k-1}) for k = 1..num_steps,   image = decode(z_K)

    Every map is differentiable, deterministic (randomness comes in as `noise`), frozen (no weight asks for gradients)
    and treats the images of a batch independently. States are float32 whatever the network's dtype, or float64 if
    `dtype` is float64.

    Attributes:
        num_steps: number of maps K.
        latent_shape: shape of one state, without the batch dimension.
        image_size: (height, width) of what `decode` returns.
        device: where the states live.
        dtype: dtype of the network.
    """

    num_steps: int
    latent_shape: tuple[int, ...]
    image_size: tuple[int, int]
    device: torch.device
    dtype: torch.dtype

    __getstate__ = state_of

    def __repr__(self) -> str:
        try:
            sizes = ["x".join(map(str, one)) for one in (self.latent_shape, self.image_size[::-1])]
            dtype = str(self.dtype).removeprefix("torch.")
            about = f"{self.num_steps} steps, latents {sizes[0]}, images {sizes[1]}, {dtype} on {self.device}"
        except Exception:  # of one that is half made
            return object.__repr__(self)
        name = (vars(self).get("guideflow_config") or {}).get("name")
        return f"{type(self).__name__}({f'{name!r}, ' if name else ''}{about})"

    @property
    def stochastic(self) -> tuple[bool, ...]:
        """Which steps take a frozen noise of `latent_shape`; by default none."""
        return (False,) * self.num_steps

    @property
    def end_levels(self) -> tuple[float, ...]:
        """Noise level at the end of each window, from 1 at the start of sampling to 0 at the finished latent."""
        return tuple(1 - (k + 1) / self.num_steps for k in range(self.num_steps))

    @property
    def state_dtype(self) -> torch.dtype:
        """Dtype of states and controls: float64 for a float64 sampler, float32 otherwise."""
        import torch  # only here, so that a plugin can offer samplers without importing it

        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @abstractmethod
    def condition(self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None) -> Any:
        """Encode one prompt per image; the result is opaque to guideflow and handed back to `step`."""

    @abstractmethod
    def step(self, k: int, z: Latent, condition: Any, noise: Tensor | None = None) -> Tensor:
        """Apply map k (from 0) to a state; `noise` is None where `stochastic[k]` is False."""

    @abstractmethod
    def decode(self, z: Latent) -> Tensor:
        """Turn final states into images; guideflow's core only asks for a batch dimension."""

    def preview(self, z: Latent) -> Tensor:
        """Turn states into images that only a solver sees, by something cheaper where there is; else as `decode`."""
        return self.decode(z)

    def prepare(self, noise: Latent) -> Tensor:
        """Turn standard normal noise into the first state; by default they are the same."""
        return noise

    def encode(self, image: Image) -> Tensor:
        """Turn images into the final states that `decode` turns back; for samplers that may begin at a picture."""
        raise InvalidArgument(
            f"{type(self).__name__} cannot begin at a picture, as it has no `encode`. Leave start= out, or write one: "
            "images in [0, 1] to final states."
        )

    def bind(self, condition: Any, noise: Latent) -> Any:
        """Return the condition for images that are drawn from a noise; by default it does not depend on it."""
        return condition

    def checkpointing(self, least: bool) -> AbstractContextManager[None]:
        """Return a context in which `step` and `decode` keep less for the backward pass; by default it does nothing.

        What is not kept they evaluate again in the backward pass, which may run after the context is left. Results and
        gradients stay the same. Contexts may be entered inside one another; the outer one counts. Usually each block of
        a network goes through `torch.utils.checkpoint.checkpoint(..., use_reentrant=False)`.

        Arguments:
            least: whether memory counts more than time: True around everything in gradient mode "checkpointed", False
                around `decode` in mode "windowed".
        """
        return nullcontext()


class Row(NamedTuple):
    """One step of a `Schedule`: its number from 0, the times at its start and end, and its factors a, b, d and c."""

    index: int  # type: ignore[assignment]
    time: float
    end_time: float
    state: float
    output: float
    noise: float
    gain: float


@dataclass(frozen=True)
class Schedule:
    """Coefficients of the affine steps of a sampler, one entry per step.

        z_{k+1} = state[k] * z_k + output[k] * f(z_k, times[k]) + noise[k] * n_k
        z_0 = init_scale * n

    All known few-step families (PeRFlow, rectified flow, InstaFlow, Turbo, PCM) are rows of such a table once states
    are written in variance-preserving coordinates.

    Arguments:
        times: time given to the network at each step, in the network's own unit.
        state: factor a_k of the state.
        output: factor b_k of the network's output.
        noise: factor d_k of the frozen noise; 0 where the step is deterministic.
        gain: relative step size c_k that anchored guidance gives to each window; by default 1.
        init_scale: standard deviation of the first state.
        path: how noisy states are at each time, for samplers that may begin at a picture.
    """

    times: tuple[float, ...]
    state: tuple[float, ...]
    output: tuple[float, ...]
    noise: tuple[float, ...] = ()
    gain: tuple[float, ...] = ()
    init_scale: float = 1.0
    path: NoisePath | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        columns = {
            name: as_numbers(f"{name} of a schedule", getattr(self, name))
            for name in ("times", "state", "output", "noise", "gain")
        }
        num_steps = len(columns["times"])
        if num_steps == 0:
            raise InvalidArgument("Schedule got no times. Expected one entry per step, at least one.")
        defaults = {"noise": (0.0,) * num_steps, "gain": (1.0,) * num_steps}
        for column, found in columns.items():
            values = found or defaults.get(column, ())
            if len(values) != num_steps:
                raise InvalidArgument(f"Schedule got {len(values)} values for `{column}` and {num_steps} for `times`.")
            object.__setattr__(self, column, values)
        in_range("init_scale", plain_number(self.init_scale), 0, ends="()")
        if self.path is not None and not isinstance(self.path, NoisePath):
            raise InvalidArgument(f"Schedule got path={said(self.path)}. Expected a `gf.NoisePath`, or None.")

    @property
    def end_times(self) -> tuple[float, ...]:
        """Time at the end of each step: the start of the next one, and 0 for the last."""
        return (*self.times[1:], 0.0)

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, k: int) -> Row:
        k = range(len(self))[k]
        return Row(k, self.times[k], self.end_times[k], self.state[k], self.output[k], self.noise[k], self.gain[k])

    def __str__(self) -> str:
        return "\n".join(f"{item.name:>10}  {getattr(self, item.name)}" for item in fields(self) if item.repr)


class AffineSampler(Sampler):
    """A sampler whose steps are affine in the state, the network's output and the frozen noise.

        z' = a_k z + b_k predict(z, row_k, condition) + d_k n_k

    with row_k = (k, t_k, t_{k+1}, a_k, b_k, d_k, c_k) of the schedule. A subclass provides `schedule`, `predict`,
    `condition`, `decode` and the attributes of `Sampler` except `num_steps`, which the schedule tells.
    """

    schedule: Schedule

    @property
    def num_steps(self) -> int:  # type: ignore[override]
        """Number of steps of the schedule."""
        return len(self.schedule)

    @property
    def stochastic(self) -> tuple[bool, ...]:
        """Which steps have a nonzero noise coefficient."""
        return tuple(d != 0 for d in self.schedule.noise)

    @property
    def end_levels(self) -> tuple[float, ...]:
        """Time at the end of each window, as a share of the time at which sampling starts."""
        return tuple(time / self.schedule.times[0] for time in self.schedule.end_times)

    @abstractmethod
    def predict(self, z: Latent, row: Row, condition: Any) -> Tensor:
        """Evaluate the network, classifier-free guidance included, at state z and `row.time`."""

    @final
    def step(self, k: int, z: Latent, condition: Any, noise: Tensor | None = None) -> Tensor:
        """Apply row k of the schedule."""
        row = self.schedule[k]
        # The two terms nearly cancel (3.49 z - 3.34 f), so the network's half precision must not reach the sum.
        own = row.state * z  # first, as gradients add up in the order of the graph, down to the last bit
        end_point = own + row.output * state_like(self, "predict", self.predict(z, row, condition), z).to(z.dtype)
        return end_point if noise is None else end_point + row.noise * noise

    def prepare(self, noise: Latent) -> Tensor:
        """Scale standard normal noise to the first state."""
        return self.schedule.init_scale * noise


@functools.cache
def alpha_bar(dtype: str = "float32") -> tuple[float, ...]:
    """Signal level of the noise schedule that the Stable Diffusion family shares, from the cleanest to the noisiest.

        alpha_bar = cumprod(1 - beta),   beta = linspace(sqrt(0.00085), sqrt(0.012), 1000)^2

    Arguments:
        dtype: What it is computed in; published models have float32.

    Returns:
        1000 numbers; an image at index t is sqrt(alpha_bar) x + sqrt(1 - alpha_bar) n.
    """
    import torch  # only here: listings read schedules without it

    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=getattr(torch, dtype)) ** 2
    return tuple(torch.cumprod(1 - beta, 0).tolist())
