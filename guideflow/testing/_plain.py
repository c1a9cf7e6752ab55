"""A sampler that is no more than the abstract class asks for."""

from collections.abc import Sequence
from typing import Any, final

from torch import Tensor

from guideflow.sampler import Sampler


@final
class Plain(Sampler):
    """Any deterministic sampler, without what it has beyond `Sampler`."""

    def __init__(self, inner: Sampler) -> None:
        self.inner, self.device, self.dtype = inner, inner.device, inner.dtype
        self.num_steps, self.latent_shape, self.image_size = inner.num_steps, inner.latent_shape, inner.image_size

    def condition(self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None) -> Any:
        return self.inner.condition(prompts, negative_prompts)

    def step(self, k: int, z: Tensor, condition: Any, noise: Tensor | None = None) -> Tensor:
        return self.inner.step(k, z, condition, noise)

    def decode(self, z: Tensor) -> Tensor:
        return self.inner.decode(z)
