"""What guideflow asks of a generator: a few differentiable maps and a decoder."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
from torch import Tensor

from guideflow.schedule import Schedule
from guideflow.types import Latent


class Sampler(ABC):
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
        control: control factor c_k of each step, the relative step size of anchored guidance; (1, ..., 1) if in doubt.
    """

    num_steps: int
    latent_shape: tuple[int, ...]
    image_size: tuple[int, int]
    device: torch.device
    dtype: torch.dtype
    control: tuple[float, ...]

    @property
    def stochastic(self) -> tuple[bool, ...]:
        """Which steps take a frozen noise of `latent_shape`; by default none."""
        return (False,) * self.num_steps

    @property
    def state_dtype(self) -> torch.dtype:
        """Dtype of states and controls: float64 for a float64 sampler, float32 otherwise."""
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

    def prepare(self, noise: Latent) -> Tensor:
        """Turn standard normal noise into the first state; by default they are the same."""
        return noise

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


class AffineSampler(Sampler):
    """A sampler whose steps are affine in the state, the network's output and the frozen noise.

        z' = a_k z + b_k predict(z, t_k, condition) + d_k n_k

    A subclass provides `schedule`, `predict`, `condition`, `decode` and the attributes of `Sampler` except `num_steps`
    and `control`, which come from the schedule.
    """

    schedule: Schedule

    @property
    def num_steps(self) -> int:  # type: ignore[override]
        """Number of steps of the schedule."""
        return self.schedule.num_steps

    @property
    def control(self) -> tuple[float, ...]:  # type: ignore[override]
        """Control factors of the schedule."""
        return self.schedule.control

    @property
    def stochastic(self) -> tuple[bool, ...]:
        """Which steps have a nonzero noise coefficient."""
        return tuple(d != 0 for d in self.schedule.noise)

    @abstractmethod
    def predict(self, z: Latent, t: float, condition: Any) -> Tensor:
        """Evaluate the network, guidance by prompt included, at state z and time t."""

    @final
    def step(self, k: int, z: Latent, condition: Any, noise: Tensor | None = None) -> Tensor:
        """Apply row k of the schedule."""
        a, b, d = self.schedule.state[k], self.schedule.output[k], self.schedule.noise[k]
        # The two terms nearly cancel (3.49 z - 3.34 f), so the network's half precision must not reach the sum.
        end_point = a * z + b * self.predict(z, self.schedule.times[k], condition).to(z.dtype)
        return end_point if noise is None else end_point + d * noise

    def prepare(self, noise: Latent) -> Tensor:
        """Scale standard normal noise to the first state."""
        return self.schedule.init_scale * noise
