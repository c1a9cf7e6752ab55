"""Encoded prompts: what the text encoders of SD 1.5, SD 2.1 and SDXL hand to the denoiser."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guideflow._require import shorten
from guideflow.errors import InvalidArgument
from guideflow.types import shown
from guideflow_diffusers.parts import Parts


@dataclass(frozen=True)
class Condition:
    """Encoded prompts of a batch; what is negative is None when classifier-free guidance is off.

    Arguments:
        text: (B, tokens, width).
        negative: Same shape.
        pooled: (B, width) of SDXL's second encoder; None for other bases.
        negative_pooled: Same shape.
    """

    text: Tensor
    negative: Tensor | None = None
    pooled: Tensor | None = None
    negative_pooled: Tensor | None = None

    __repr__ = shown


@torch.no_grad()
def encode_prompts(
    parts: Parts, prompts: Sequence[str], negative_prompts: Sequence[str] | None, *, guided: bool
) -> Condition:
    """Encode one prompt per image, each different prompt once, and the negative side where guidance needs it.

    SD 1.5 and SD 2.1 use the last hidden states; SDXL the penultimate ones of both encoders, side by side, and the
    pooled output of the second. Without negative prompts the base's own stands in: the empty one, or zeros where the
    checkpoint says `force_zeros_for_empty_prompt`.
    """
    if negative_prompts is not None and len(negative_prompts) != len(prompts):
        raise InvalidArgument(
            f"Got {len(negative_prompts)} negative prompts for {len(prompts)} prompts. Expected one for each image."
        )
    text, pooled = _encode(parts, prompts)
    if not guided:
        return Condition(text, pooled=pooled)
    if negative_prompts is None and parts.force_zeros_for_empty_prompt:
        return Condition(text, torch.zeros_like(text), pooled, None if pooled is None else torch.zeros_like(pooled))
    negative, negative_pooled = _encode(parts, negative_prompts or [""] * len(prompts))
    return Condition(text, negative, pooled, negative_pooled)


def _encode(parts: Parts, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
    different = list(dict.fromkeys(prompts))
    hidden = []
    pooled = None
    pairs = [(parts.tokenizer, parts.text_encoder), (parts.tokenizer_2, parts.text_encoder_2)]
    for tokenizer, encoder in pairs if parts.text_encoder_2 is not None else pairs[:1]:
        # Only where they are used: for hidden states transformers leaves hooks, which no other process can be sent.
        two = parts.text_encoder_2 is not None
        length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)  # not every tokenizer says
        output = encoder(tokens(tokenizer, different, length).to(encoder.device), output_hidden_states=two)
        hidden.append(output.last_hidden_state if parts.text_encoder_2 is None else output.hidden_states[-2])
        pooled = getattr(output, "text_embeds", None)
    text = torch.cat(hidden, dim=-1)
    text = _spread(text.to(parts.unet.device, parts.unet.dtype), different, prompts)
    if pooled is not None:
        pooled = _spread(pooled.to(parts.unet.device, parts.unet.dtype), different, prompts)
    return text, pooled


def _spread(encoded: Tensor, different: list[str], prompts: Sequence[str]) -> Tensor:
    """Give every image its prompt's row; one prompt for all is shared, not copied."""
    if len(different) == 1:
        return encoded.expand(len(prompts), *encoded.shape[1:])
    rows = {prompt: row for row, prompt in enumerate(different)}
    return encoded[[rows[prompt] for prompt in prompts]]


def tokens(tokenizer: Any, prompts: list[str], length: int | None = None) -> Tensor:
    """Turn prompts into ids, filled up to what the text encoder reads; what is cut off is told in a warning."""
    length = length or tokenizer.model_max_length
    for prompt, ids in zip(prompts, tokenizer(prompts, verbose=False).input_ids, strict=True):
        if len(ids) > length:
            lost = tokenizer.decode(ids[length - 1 : -1])
            warnings.warn(
                f"A prompt has {len(ids) - 2} tokens and the text encoder reads {length - 2}: {lost!r} is not seen. "
                f"Shorten the prompt {shorten(prompt, 40)!r}.",
                stacklevel=2,
            )
    found = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return found.input_ids
