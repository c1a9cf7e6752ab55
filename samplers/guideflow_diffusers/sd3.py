"""Stable Diffusion 3: a flow-matching transformer on latents as they are (Esser et al., 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from guideflow.sampler import Row
from guideflow.types import Latent
from guideflow_diffusers.flow import FlowAdapter
from guideflow_diffusers.text import Condition


@final
class SD3Adapter(FlowAdapter):
    """How `SD3Transformer2DModel` is called: it makes tokens and positions itself, and takes 1000 sigma; output v."""

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
        """Evaluate."""
        time = torch.full((len(z),), row.time, device=z.device, dtype=torch.float32)
        made: Tensor = transformer(
            hidden_states=z, timestep=time, encoder_hidden_states=text, pooled_projections=pooled
        ).sample
        return made


def encode_sd3(
    pipe: Any,
    device: torch.device,
    options: Mapping[str, Any],
    prompts: Sequence[str],
    negative_prompts: Sequence[str] | None,
    *,
    guided: bool,
) -> Condition:
    """Let the pipeline encode prompts, and what it takes for a negative one that is not given."""
    text, negative, pooled, negative_pooled = pipe.encode_prompt(
        *[list(prompts)] * 3,
        device=device,
        do_classifier_free_guidance=guided,
        negative_prompt=list(negative_prompts) if guided and negative_prompts is not None else None,
        clip_skip=options["clip_skip"],
        max_sequence_length=options["max_sequence_length"],
    )
    return Condition(text, negative, pooled, negative_pooled) if guided else Condition(text, pooled=pooled)
