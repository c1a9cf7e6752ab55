"""FLUX.1: a rectified flow transformer on packed latents (Black Forest Labs, 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from guideflow.sampler import Row
from guideflow.types import Latent
from guideflow_diffusers.flow import FlowAdapter


@final
@dataclass(frozen=True)
class FluxAdapter(FlowAdapter):
    """How `FluxTransformer2DModel` is called: 2x2 latents a token, positions (0, row, column), time sigma, output v.

    Arguments:
        guidance: The guidance scale that FLUX.1-dev takes as an embedding; None for networks without.
    """

    guidance: float | None = None
    patch: ClassVar[int] = 2

    def velocity(self, transformer: Any, z: Latent, row: Row, text: Tensor, pooled: Tensor | None) -> Tensor:
        """Pack, evaluate and unpack."""
        height, width = (side // self.patch for side in z.shape[-2:])
        at = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        positions = torch.stack([torch.zeros_like(at[0]), *at], dim=-1).reshape(-1, 3).to(z)

        def told(value: float) -> Tensor:
            return torch.full((len(z),), value, device=z.device, dtype=torch.float32)

        tokens = transformer(
            hidden_states=pack(z),
            timestep=told(row.time / 1000),
            guidance=None if self.guidance is None else told(self.guidance),
            pooled_projections=pooled,
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3).to(z),
            img_ids=positions,
        ).sample
        return unpack(tokens, height, width)


def pack(z: Latent) -> Tensor:
    """Turn latents into tokens of 2x2, (B, C, 2 h, 2 w) to (B, h w, 4 C), rows first; channels vary slowest inside."""
    tokens = z.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # B C h 2 w 2
    return tokens.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Turn (B, height width, 4 C) tokens back into latents, (B, C, 2 height, 2 width)."""
    z = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (height, width))  # B h w C 2 2
    return z.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
