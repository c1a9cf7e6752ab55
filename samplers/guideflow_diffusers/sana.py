"""SANA-Sprint: a linear transformer on latents of 32x32 pixels each (Chen et al., 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from guideflow.sampler import Row
from guideflow.types import Latent
from guideflow_diffusers.flow import FlowAdapter
from guideflow_diffusers.text import Condition


@final
@dataclass(frozen=True)
class SanaAdapter(FlowAdapter):
    """How `SanaTransformer2DModel` of SANA-Sprint is called: time sigma, guidance as an embedding, output v.

    Arguments:
        guidance: The guidance scale that the network is told.
    """

    guidance: float = 4.5

    def velocity(
        self,
        transformer: Any,
        z: Latent,
        row: Row,
        text: Tensor,
        pooled: Tensor | None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Evaluate: in the coordinates of the flow the network is called with the state as it is."""
        told = self.guidance * transformer.config.guidance_embeds_scale
        made: Tensor = transformer(
            z,
            encoder_hidden_states=text,
            encoder_attention_mask=mask,
            guidance=torch.full((len(z),), told, device=z.device, dtype=text.dtype),
            timestep=torch.full((len(z),), row.time / 1000, device=z.device, dtype=torch.float32),
        ).sample
        return made


def encode_sana(
    pipe: Any,
    device: torch.device,
    options: Mapping[str, Any],
    prompts: Sequence[str],
    negative_prompts: Sequence[str] | None,
    *,
    guided: bool,
) -> Condition:
    """Let the pipeline encode prompts, behind the instruction that it puts before them; there is no negative side."""
    text, mask = pipe.encode_prompt(
        list(prompts),
        device=device,
        max_sequence_length=options["max_sequence_length"],
        complex_human_instruction=options["complex_human_instruction"],
    )
    return Condition(text, mask=mask.bool())
