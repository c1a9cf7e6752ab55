"""Qwen-Image: a flow transformer on packed latents of a video autoencoder (Qwen team, 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from guideflow.sampler import Row
from guideflow.types import Latent
from guideflow_diffusers.flow import FlowAdapter
from guideflow_diffusers.flux import pack, unpack
from guideflow_diffusers.text import Condition


@final
@dataclass(frozen=True)
class QwenImageAdapter(FlowAdapter):
    """How `QwenImageTransformer2DModel` is called: 2x2 latents a token, time sigma, output v."""

    patch: ClassVar[int] = 2

    def velocity(
        self,
        transformer: Any,
        z: Latent,
        row: Row,
        text: Tensor,
        pooled: Tensor | None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Pack, evaluate and unpack."""
        height, width = (side // self.patch for side in z.shape[-2:])
        tokens = transformer(
            hidden_states=pack(z),
            timestep=torch.full((len(z),), row.time / 1000, device=z.device, dtype=torch.float32),
            encoder_hidden_states=text,
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, height, width)]] * len(z),
        ).sample
        return unpack(tokens, height, width)

    def guided(self, negative: Tensor, positive: Tensor, scale: float) -> Tensor:
        """Combine the velocities, and give each token the length that it has with the prompt alone."""
        without, prompted = pack(negative), pack(positive)
        both = without + scale * (prompted - without)
        lengths = (one.norm(dim=-1, keepdim=True) for one in (prompted, both))
        height, width = (side // self.patch for side in positive.shape[-2:])
        own, made = lengths
        return unpack(both * (own / made), height, width)


def encode_qwen_image(
    pipe: Any,
    device: torch.device,
    options: Mapping[str, Any],
    prompts: Sequence[str],
    negative_prompts: Sequence[str] | None,
    *,
    guided: bool,
) -> Condition:
    """Let the pipeline encode prompts; without negative ones there is no negative side, as in the pipeline."""

    def encoded(side: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        found = pipe.encode_prompt(list(side), device, max_sequence_length=options["max_sequence_length"])
        text, mask = found
        return text, None if mask is None else mask.bool()

    text, mask = encoded(prompts)
    if not guided or negative_prompts is None:
        return Condition(text, mask=mask)
    negative, negative_mask = encoded(negative_prompts)
    return Condition(text, negative, mask=mask, negative_mask=negative_mask)
