"""Names for the tensors that travel between samplers, losses and solvers."""

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Bool, Float
from torch import Tensor

Image: TypeAlias = Float[Tensor, "batch 3 height width"]
"""RGB pictures in [0, 1]."""

Latent: TypeAlias = Float[Tensor, " batch *latent"]
"""States of a sampler, one per image."""

Latents: TypeAlias = Float[Tensor, "steps batch *latent"]
"""One latent per step (or window) of a sampler and per image."""

States: TypeAlias = Float[Tensor, "states batch *latent"]
"""All states of a trajectory, the first one included."""

PerImage: TypeAlias = Float[Tensor, " batch"]
"""One number per image."""

Mask: TypeAlias = Bool[Tensor, " batch"]
"""One truth value per image."""

LossLike: TypeAlias = Callable[[Tensor], Tensor]
"""Any callable that maps a batch of images to one number per image; lower is better."""
