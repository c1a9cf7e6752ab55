"""FLUX.1: a rectified flow transformer on packed latents (Black Forest Labs, 2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from guideflow._require import require
from guideflow.sampler import Row
from guideflow.types import Latent
from guideflow_diffusers.flow import FlowAdapter
from guideflow_diffusers.text import Condition, tokens


@final
@dataclass(frozen=True)
class FluxAdapter(FlowAdapter):
    """How `FluxTransformer2DModel` is called: 2x2 latents a token, positions (0, row, column), time sigma, output v.

    Arguments:
        guidance: The guidance scale that FLUX.1-dev takes as an embedding; None for networks without.
    """

    guidance: float | None = None
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


@final
@dataclass(frozen=True)
class FluxText:
    """The text encoders of FLUX.1: pooled by CLIP, tokens by T5.

    Without T5 the tokens are CLIP's last hidden states, for small models that were trained so.

    Arguments:
        tokenizer: `CLIPTokenizer`.
        text_encoder: `CLIPTextModel`.
        tokenizer_2: `T5TokenizerFast`, or None.
        text_encoder_2: `T5EncoderModel`, or None.
        max_sequence_length: How many tokens of a prompt T5 reads.
    """

    tokenizer: Any
    text_encoder: Any
    tokenizer_2: Any = None
    text_encoder_2: Any = None
    max_sequence_length: int = 256

    @classmethod
    def load(
        cls,
        folder: Path,
        options: Callable[[str], Mapping[str, Any]],
        *,
        max_sequence_length: int,
        dtype: torch.dtype,
        device: str | torch.device,
    ) -> FluxText:
        """Load the encoders of a diffusers folder; `options` gives those of `from_pretrained` by the encoder's name."""
        transformers = require("transformers", extra="diffusers")
        kinds = {"": ("CLIPTextModel", "CLIPTokenizer"), "_2": ("T5EncoderModel", "T5TokenizerFast")}
        found = {}
        for end, (encoder, tokenizer) in kinds.items():
            name = f"text_encoder{end}"
            if (folder / name).is_dir():
                network = getattr(transformers, encoder).from_pretrained(folder / name, **options(name))
                found[name] = network.to(device, dtype).eval().requires_grad_(False)
                found[f"tokenizer{end}"] = getattr(transformers, tokenizer).from_pretrained(folder / f"tokenizer{end}")
        return cls(**found, max_sequence_length=max_sequence_length)

    @property
    def networks(self) -> Mapping[str, Any]:
        """The text encoders by name."""
        return {name: getattr(self, name) for name in ("text_encoder", "text_encoder_2")}

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[str], negative_prompts: Sequence[str] | None, *, guided: bool = False
    ) -> Condition:
        """Encode one prompt per image, and negative prompts; without any there is no negative side, as published."""
        text, pooled = self._encode(prompts)
        if not guided or negative_prompts is None:
            return Condition(text, pooled=pooled)
        negative, negative_pooled = self._encode(negative_prompts)
        return Condition(text, negative, pooled, negative_pooled)

    def _encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        device = self.text_encoder.device
        # What CLIP, asked for the whole alone, does not read, T5 does.
        read = tokens(self.tokenizer, list(prompts), tell=self.text_encoder_2 is None)
        first = self.text_encoder(read.to(device))
        if self.text_encoder_2 is None:
            return first.last_hidden_state, first.pooler_output
        ids = tokens(self.tokenizer_2, list(prompts), self.max_sequence_length)
        return self.text_encoder_2(ids.to(device)).last_hidden_state, first.pooler_output


def pack(z: Latent) -> Tensor:
    """Turn latents into tokens of 2x2, (B, C, 2 h, 2 w) to (B, h w, 4 C), rows first; channels vary slowest inside."""
    tokens = z.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # B C h 2 w 2
    return tokens.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Turn (B, height width, 4 C) tokens back into latents, (B, C, 2 height, 2 width)."""
    z = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (height, width))  # B h w C 2 2
    return z.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
