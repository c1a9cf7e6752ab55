"""A sampler whose network is a constant for the gradient, wholly or in its early steps."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, final

import torch
from torch import Tensor

from guideflow.errors import InvalidArgument
from guideflow.sampler import AffineSampler, Row, Sampler
from guideflow.types import Latent


@final
class Detached(AffineSampler):
    """The same sampler, with gradients that do not pass through its network.

        z' = a_k z + b_k stop(predict(z, t_k)) + d_k n_k,    stop: what follows is a constant for the gradient

    Pictures are the same bit by bit; the gradient at every state is the decoder's, times a product of the a_k, and no
    longer that of the loss. It saves the backward pass of the network and what is kept for it.

    Arguments:
        sampler: an affine sampler.
        windows: number of last steps whose network keeps its gradient, 0 to `num_steps`.

    Raises:
        InvalidArgument: if the sampler is not affine, or has fewer steps.

    Source: He et al., MPGD (2024); Patel et al., FlowChef (2024). Not where the loss has to be met exactly, nor with
    solvers that compare the loss to what its gradient promised, such as `trust-region` and `polyak`.
    """

    def __init__(self, sampler: Sampler, windows: int = 0) -> None:
        """Take over everything but the gradient."""
        if not isinstance(sampler, AffineSampler):
            raise InvalidArgument(
                f"Detached got {type(sampler).__name__}. Expected an AffineSampler, such as "
                "`gf.load_sampler('avatars-perflow')`: other steps have no network that could be told apart."
            )
        if not 0 <= windows <= sampler.num_steps:
            raise InvalidArgument(f"Detached got windows = {windows}. Expected 0 to {sampler.num_steps}.")
        self.sampler, self.windows, self.schedule = sampler, windows, sampler.schedule
        self.latent_shape, self.image_size = sampler.latent_shape, sampler.image_size
        self.device, self.dtype = sampler.device, sampler.dtype

    def condition(self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None) -> Any:
        """Encode as the sampler does."""
        return self.sampler.condition(prompts, negative_prompts)

    def prepare(self, noise: Latent) -> Tensor:
        """Scale noise as the sampler does."""
        return self.sampler.prepare(noise)

    def predict(self, z: Latent, row: Row, condition: Any) -> Tensor:
        """Evaluate the sampler's network, without gradient in all but the last windows."""
        keeps = row.index >= self.num_steps - self.windows
        with torch.set_grad_enabled(torch.is_grad_enabled() and keeps):
            return self.sampler.predict(z, row, condition)

    def decode(self, z: Latent) -> Tensor:
        """Decode as the sampler does, with gradient."""
        return self.sampler.decode(z)

    def checkpointing(self, least: bool) -> AbstractContextManager[None]:
        """Save memory as the sampler does."""
        return self.sampler.checkpointing(least)
