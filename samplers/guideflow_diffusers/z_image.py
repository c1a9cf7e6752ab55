"""Z-Image: one stream of image and text tokens (Tongyi-MAI, 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from guideflow.sampler import Row
from guideflow.types import Latent
from guideflow_diffusers.flow import FlowAdapter
from guideflow_diffusers.text import Condition, padded


@final
@dataclass(frozen=True)
class ZImageAdapter(FlowAdapter):
    """How `ZImageTransformer2DModel` is called: lists of images and texts, time 1 - sigma, output -v."""

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
        """Evaluate on each image with its own text, without padding."""
        time = torch.full((len(z),), 1 - row.time / 1000, device=z.device, dtype=torch.float32)
        texts = list(text) if mask is None else [one[kept] for one, kept in zip(text, mask, strict=True)]
        made = transformer(list(z[:, :, None]), time, texts, return_dict=False)[0]
        return -torch.stack(list(made))[:, :, 0]


def encode_z_image(
    pipe: Any,
    device: torch.device,
    options: Mapping[str, Any],
    prompts: Sequence[str],
    negative_prompts: Sequence[str] | None,
    *,
    guided: bool,
) -> Condition:
    """Let the pipeline encode prompts; without negative ones the empty prompt stands in."""
    found = pipe.encode_prompt(
        list(prompts),
        device,
        do_classifier_free_guidance=guided,
        negative_prompt=None if negative_prompts is None else list(negative_prompts),
        max_sequence_length=options["max_sequence_length"],
    )
    text, mask = padded(found[0])
    negative, negative_mask = padded(found[1]) if guided else (None, None)
    return Condition(text, negative, mask=mask, negative_mask=negative_mask)
