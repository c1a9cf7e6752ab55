"""Text encoders that are kept, or dropped from memory once they have encoded a prompt."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from guideflow.memory import available_bytes
from guideflow_diffusers.cut_prompts import watched
from guideflow_diffusers.parts import Parts
from guideflow_diffusers.text import Condition, encode_prompts, joined

_KEPT = 64
_ROOM = 1.2  # of their weights, for what they compute


@final
@dataclass(frozen=True)
class PipelineText:
    """The text encoders of a pipeline of diffusers, called as the pipeline calls them.

    Arguments:
        pipe: The pipeline, of which `encode_prompt` is used.
        encode: Calls it, (pipe, device, options, prompts, negative_prompts, guided=) -> `Condition`.
        options: Of a call of the pipeline, by name.
        device: Where they are evaluated.
        networks: The text encoders by name.
    """

    pipe: Any
    encode: Callable[..., Condition]
    options: Mapping[str, Any]
    device: torch.device
    networks: Mapping[str, nn.Module] = field(default_factory=dict)

    def __call__(
        self, prompts: Sequence[str], negative_prompts: Sequence[str] | None, *, guided: bool = False
    ) -> Condition:
        """Encode one prompt per image."""
        return encode_by(self.pipe, self.encode, self.options, self.device, prompts, negative_prompts, guided=guided)


@torch.no_grad()
def encode_by(
    pipe: Any,
    encode: Callable[..., Condition],
    options: Mapping[str, Any],
    device: torch.device,
    prompts: Sequence[str],
    negative_prompts: Sequence[str] | None,
    *,
    guided: bool = False,
) -> Condition:
    """Encode one prompt per image by a pipeline's own text encoders, whoever they belong to."""
    with watched(pipe, [*prompts, *(negative_prompts or ())], options) as view:
        made = encode(view, device, options, prompts, negative_prompts, guided=guided)
    send_back(pipe)
    return made


def send_back(pipe: Any) -> None:
    """Send the text encoders of an offloaded pipeline back, as the pipeline does after a call."""
    if getattr(pipe, "_all_hooks", None):
        pipe.maybe_free_model_hooks()


@final
class TextOnDemand:
    """Text encoders that are in memory only while they encode.

    What they made of a prompt is kept, the last 64 of them. A prompt that is new has them loaded again, which a warning
    tells; they run on the device if it has room for them, else on the CPU.

    Arguments:
        load: Makes the encoder, which has its `networks` by name, on the CPU.
        device: Where what they made goes, and they where there is room.
        held: An encoder that is loaded already, and is dropped after its first use.
    """

    def __init__(self, load: Callable[[], Any], device: torch.device, *, held: Any = None) -> None:
        self._load, self._device, self._held = load, torch.device(device), held
        self._made: OrderedDict[tuple[str, str | None, bool], Condition] = OrderedDict()

    def __call__(
        self, prompts: Sequence[str], negative_prompts: Sequence[str] | None, *, guided: bool = False
    ) -> Condition:
        """Encode one prompt per image, loading the encoders if one of them is new."""
        negatives = [None] * len(prompts) if negative_prompts is None else list(negative_prompts)
        if len(negatives) != len(prompts):
            negatives *= len(prompts)
        keys = [(prompt, negative, guided) for prompt, negative in zip(prompts, negatives, strict=False)]
        found = {key: self._made[key] for key in keys if key in self._made}
        if new := [key for key in dict.fromkeys(keys) if key not in found]:
            found |= zip(new, self._encode(new, guided), strict=True)
        self._made |= found
        for key in keys:
            self._made.move_to_end(key)
        while len(self._made) > _KEPT:
            self._made.popitem(last=False)
        return _stacked([found[key] for key in keys])

    def _encode(self, new: Sequence[tuple[str, str | None, bool]], guided: bool) -> list[Condition]:
        if self._held is None and self._made:
            warnings.warn(
                f"The text encoders were dropped (keep_text_encoder=False) and are loaded again for {new[0][0]!r}.",
                stacklevel=4,
            )
        encoder, self._held = self._held or self._load(), None
        networks = [network for network in encoder.networks.values() if network is not None]
        needed = sum(w.numel() * w.element_size() for network in networks for w in network.parameters())
        where = self._device if available_bytes(self._device) > _ROOM * needed else torch.device("cpu")
        for network in networks:
            network.to(where)
        if isinstance(encoder, PipelineText):
            encoder = replace(encoder, device=where)
        negatives = [negative for _, negative, _ in new]
        given = None if None in negatives else negatives
        made = encoder([prompt for prompt, *_ in new], given, guided=guided)
        rows = [made.row(i).to(self._device, made.text.dtype) for i in range(len(new))]
        del encoder, networks, made
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return rows


def _stacked(rows: Sequence[Condition]) -> Condition:
    """Stack the conditions of single images, filled up to the longest text."""
    columns: dict[str, Tensor | None] = {}
    for name in ("pooled", "negative_pooled"):
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        columns[name] = torch.cat(values) if values else None
    for name, mask in (("text", "mask"), ("negative", "negative_mask")):
        texts = [value for row in rows if (value := getattr(row, name)) is not None]
        columns[name], columns[mask] = joined(texts, [getattr(row, mask) for row in rows]) if texts else (None, None)
    return Condition(**columns)


@final
@dataclass(frozen=True)
class PartsText:
    """The text encoders of a model in pieces, by themselves.

    Arguments:
        parts: The model.
    """

    parts: Parts

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The text encoders by name."""
        return {name: getattr(self.parts, name) for name in ("text_encoder", "text_encoder_2")}

    def __call__(
        self, prompts: Sequence[str], negative_prompts: Sequence[str] | None, *, guided: bool = False
    ) -> Condition:
        """Encode one prompt per image."""
        return encode_prompts(self.parts, prompts, negative_prompts, guided=guided)


def without_text_encoders(parts: Parts, load: Callable[[], Parts]) -> Parts:
    """Return a model that drops its text encoders after their first use, and loads it all again for a new prompt."""
    encoder = TextOnDemand(partial(_again, load), parts.unet.device, held=PartsText(parts))
    dropped = dict.fromkeys(("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"))
    return replace(parts, encoder=encoder, **dropped)


def _again(load: Callable[[], Parts]) -> PartsText:
    return PartsText(load())
