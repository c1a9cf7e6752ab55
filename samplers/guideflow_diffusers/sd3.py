"""Stable Diffusion 3: a flow-matching transformer on latents as they are (Esser et al., 2024)."""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch
from torch import Tensor

from guideflow.sampler import Row
from guideflow.types import Latent
from guideflow_diffusers.flow import FlowAdapter


@final
class SD3Adapter(FlowAdapter):
    """How `SD3Transformer2DModel` is called: it makes tokens and positions itself, and takes 1000 sigma; output v."""

    patch: ClassVar[int] = 2

    def velocity(self, transformer: Any, z: Latent, row: Row, text: Tensor, pooled: Tensor | None) -> Tensor:
        """Evaluate."""
        time = torch.full((len(z),), row.time, device=z.device, dtype=torch.float32)
        made: Tensor = transformer(
            hidden_states=z, timestep=time, encoder_hidden_states=text, pooled_projections=pooled
        ).sample
        return made
