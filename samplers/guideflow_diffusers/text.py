"""Encoded prompts: what the text encoders of SD 1.5, SD 2.1 and SDXL hand to the denoiser."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guideflow._told import shorten
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
        mask: (B, tokens), true where there is text and not padding; None where the network reads all.
        negative_mask: Same shape.
    """

    text: Tensor
    negative: Tensor | None = None
    pooled: Tensor | None = None
    negative_pooled: Tensor | None = None
    mask: Tensor | None = None
    negative_mask: Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> Condition:
        """Move everything to a device, and numbers to a dtype; masks stay as they are."""

        def moved(one: Tensor | None) -> Tensor | None:
            return one if one is None else one.to(device, dtype if one.is_floating_point() else one.dtype)

        return Condition(**{name: moved(value) for name, value in vars(self).items()})

    def row(self, i: int) -> Condition:
        """Return what belongs to one image, as a batch of one without padding."""
        own = {name: None if value is None else value[i : i + 1] for name, value in vars(self).items()}
        for name, mask in (("text", "mask"), ("negative", "negative_mask")):
            text, kept = own[name], own[mask]
            if text is not None and kept is not None:
                # Padding is on the right; what is masked inside the text stays masked.
                length = int(kept[0].nonzero().max()) + 1 if kept.any() else 1
                own[name], own[mask] = text[:, :length], kept[:, :length]
        return Condition(**own)

    def both(self) -> Condition:
        """Stack the negative side on the positive one, filled up to the same number of tokens, as one batch."""
        if self.negative is None:
            return self
        text, mask = joined((self.negative, self.text), (self.negative_mask, self.mask))
        pooled = None
        if self.pooled is not None and self.negative_pooled is not None:
            pooled = torch.cat([self.negative_pooled, self.pooled])
        return Condition(text, pooled=pooled, mask=mask)

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


def padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack texts of different lengths, (tokens, width) each, to (B, tokens, width) and (B, tokens), true for text."""
    masks = [torch.ones(len(row), dtype=torch.bool, device=row.device) for row in rows]
    text, mask = (torch.nn.utils.rnn.pad_sequence(list(one), batch_first=True) for one in (rows, masks))
    return text, mask


def joined(texts: Sequence[Tensor], masks: Sequence[Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """Stack batches of texts, (B, tokens, width) each, filled up to the longest; without any mask, none is made."""
    if all(mask is None for mask in masks):
        return torch.cat(list(texts)), None
    known = [
        torch.ones(text.shape[:2], dtype=torch.bool, device=text.device) if mask is None else mask
        for text, mask in zip(texts, masks, strict=True)
    ]
    length = max(text.shape[1] for text in texts)
    pad = torch.nn.functional.pad
    filled = [pad(text, (0, 0, 0, length - text.shape[1])) for text in texts]
    return torch.cat(filled), torch.cat([pad(mask, (0, length - mask.shape[1])) for mask in known])


def _spread(encoded: Tensor, different: list[str], prompts: Sequence[str]) -> Tensor:
    """Give every image its prompt's row; one prompt for all is shared, not copied."""
    if len(different) == 1:
        return encoded.expand(len(prompts), *encoded.shape[1:])
    rows = {prompt: row for row, prompt in enumerate(different)}
    return encoded[[rows[prompt] for prompt in prompts]]


def tokens(tokenizer: Any, prompts: list[str], length: int | None = None, *, tell: bool = True) -> Tensor:
    """Turn prompts into ids, filled up to what the text encoder reads; what is cut off is told in a warning."""
    length = length or tokenizer.model_max_length
    for prompt, ids in zip(prompts, tokenizer(prompts, verbose=False).input_ids, strict=True):
        if tell and len(ids) > length:
            lost = tokenizer.decode(ids[length - 1 : -1])
            warnings.warn(
                f"A prompt has {len(ids) - 2} tokens and the text encoder reads {length - 2}: {lost!r} is not seen. "
                f"Shorten the prompt {shorten(prompt, 40)!r}.",
                stacklevel=2,
            )
    found = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return found.input_ids
