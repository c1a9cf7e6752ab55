"""The parts of a latent text-to-image model, and how they are loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guideflow._devices import as_device, as_dtype
from guideflow._process import adopt, own_state
from guideflow._require import without_progress_bars
from guideflow._told import said
from guideflow.errors import InvalidArgument
from guideflow_diffusers import checkpoints, single_file
from guideflow_diffusers.hub import COMPONENTS, find_weights, locate
from guideflow_diffusers.lora import is_lora, merge_lora
from guideflow_diffusers.weights import Weights, add_weights

Delta = str | Path | Sequence[str | Path]
"""Delta weights, or (styled, original): two denoisers whose difference is added."""

_WIDTHS = {768: "SD 1.5", 1024: "SD 2.1", 2048: "SDXL"}  # numbers a token, of the text encoders together


@dataclass(frozen=True)
class Parts:
    """A frozen text-to-image model in pieces.

    Arguments:
        unet: Denoiser, called as diffusers' `UNet2DConditionModel` is.
        vae: `AutoencoderKL`.
        tokenizer: `CLIPTokenizer`.
        text_encoder: `CLIPTextModel`.
        tokenizer_2: Of SDXL's second encoder.
        text_encoder_2: `CLIPTextModelWithProjection` of SDXL, which also makes the pooled embedding.
        force_zeros_for_empty_prompt: Whether zeros stand in where there is no negative prompt.
        encoder: Encodes prompts instead of the text encoders, (prompts, negative_prompts, guided=) -> `Condition`.
        image_prompt: What an IP-Adapter hands to the denoiser, see `with_ip_adapter`: for each adapter the encoded
            images, (1, images, ...), and the same without an image.
    """

    unet: Any
    vae: Any
    tokenizer: Any
    text_encoder: Any
    tokenizer_2: Any = None
    text_encoder_2: Any = None
    force_zeros_for_empty_prompt: bool = False
    encoder: Callable[..., Any] | None = None
    image_prompt: tuple[tuple[Tensor, Tensor], ...] = ()

    def __post_init__(self) -> None:
        """Freeze the networks: guidance differentiates with respect to states, never to weights."""
        for network in (self.unet, self.vae, self.text_encoder, self.text_encoder_2):
            if network is not None:
                adopt(network)

    @property
    def base(self) -> str | None:
        """The model family, "SD 1.5", "SD 2.1" or "SDXL", as far as its text encoders tell; None for others."""
        xl = self.text_encoder_2 is not None or self.unet.config.get("addition_embed_type") == "text_time"
        return "SDXL" if xl else _WIDTHS.get(self.unet.config.get("cross_attention_dim"))


@own_state()
def load_parts(
    checkpoint: str | Path,
    *,
    base: str | Path | None = None,
    variant: str | None = None,
    delta: Delta | None = None,
    lora: str | Path | None = None,
    lora_scale: float = 1.0,
    dtype: torch.dtype | str = torch.float32,
    device: str | torch.device = "cpu",
) -> Parts:
    """Load the parts of a checkpoint, change its weights if asked, and freeze them.

    Arguments:
        checkpoint: A Hub id, a local diffusers folder, a folder with a denoiser only, or a safetensors file: a model in
            Stability's layout, whole or with a denoiser, a denoiser in diffusers' names, or a LoRA. `owner/name:file`
            is a file on the Hub.
        base: A second checkpoint that provides autoencoder, text encoders and tokenizers, also where the first has its
            own.
        variant: Of the weights: "fp16", "v0-fix"; for delta weights too. The denoiser must have it, unless they do.
        delta: Weights added to the denoiser's (file, folder or Hub), or (styled, original) for a style's difference.
        lora: Merged into the denoiser and, where it has keys for them, the text encoders; after `delta`.
        lora_scale: Strength of the LoRA.
        dtype: Of the denoiser and the text encoders, as torch.dtype or its name; the autoencoder stays in float32
            (float64 with float64), where half precision overflows or blurs its gradient.
        device: Where to put them.

    Returns:
        The parts, frozen.

    Raises:
        InvalidArgument: If something is no checkpoint, or weights do not fit.
        MissingWeights: If something is on the Hub and cannot be fetched.
        MissingExtra: If diffusers is not installed.
    """
    dtype, device = as_dtype(dtype), as_device(device)
    needed = COMPONENTS if base is None else checkpoints.DENOISERS
    source = rest = locate(checkpoint, variant=variant, components=needed)
    weights = Weights(find_weights(source, option="checkpoint")) if source.is_file() else None
    if weights is None and base is not None and checkpoints.denoiser_folder(source) is None:
        raise InvalidArgument(
            f"{source} has no denoiser, so that nothing of it would be used beside base=. Expected a folder with unet "
            "or transformer in it, or a .safetensors file. A LoRA is given as lora=."
        )
    single = weights is not None and single_file.is_single_file(weights)
    loras = [weights] if weights is not None and is_lora(weights) else []
    if base is not None:
        needed = [name for name in COMPONENTS if loras or name not in checkpoints.DENOISERS]
        rest = locate(base, option="base", variant=variant, components=needed)
    elif weights is not None and not single:
        what = "a LoRA" if loras else "a denoiser"
        raise InvalidArgument(f"{checkpoint} is {what} by itself. Give base=, a checkpoint that provides the rest.")
    if lora is not None:
        loras.append(Weights(find_weights(lora, option="lora")))
    with without_progress_bars("diffusers"):
        if weights is not None and single and base is None:
            found = single_file.load_single_file(weights, dtype=dtype)
        else:
            folder = source if weights is None else rest
            checkpoints.require_complete(folder, rest)
            if weights is not None and single:
                found = {"unet": single_file.load_single_denoiser(weights, folder, dtype=dtype)}
            elif weights is not None and not is_lora(weights):
                config = checkpoints.denoiser_folder(folder) or folder
                found = {"unet": checkpoints.load_weights(weights, weights.where, config, dtype=dtype)}
            else:
                strict = delta is None
                found = {"unet": checkpoints.load_denoiser(folder, variant=variant, strict=strict, dtype=dtype)}
            found |= checkpoints.load_rest(rest, variant=variant, dtype=dtype)
    if delta is not None:
        _add_delta(found["unet"], delta, variant)
    networks = {name: found[name] for name in ("unet", "text_encoder", "text_encoder_2") if found.get(name) is not None}
    for part in loras:
        merge_lora(networks, part, lora_scale)
    parts = Parts(**{name: part.to(device) if isinstance(part, nn.Module) else part for name, part in found.items()})
    _check_widths(parts)
    return parts


def _add_delta(denoiser: Any, delta: Delta, variant: str | None) -> None:
    if isinstance(delta, str | PathLike):
        return add_weights(denoiser, Weights(find_weights(delta, option="delta", variant=variant)))
    if not isinstance(delta, list | tuple) or len(delta) != 2:
        raise InvalidArgument(f"Got delta = {said(delta)}. Expected weights to add, or a pair (styled, original).")
    styled, original = (Weights(find_weights(part, option="delta")) for part in delta)
    return add_weights(denoiser, styled, minus=original)


def _check_widths(parts: Parts) -> None:
    """Refuse text encoders of another base: the error would otherwise come from deep inside, at the first step."""
    expected = parts.unet.config.get("cross_attention_dim")
    encoders = [parts.text_encoder, parts.text_encoder_2] if parts.text_encoder_2 is not None else [parts.text_encoder]
    width = sum(encoder.config.hidden_size for encoder in encoders)
    if isinstance(expected, int) and width != expected:
        raise InvalidArgument(
            f"The text encoders give {width} numbers a token and the denoiser takes {expected}: they are of different "
            f"bases. Give a base= of the denoiser's kind ({', '.join(f'{name}: {n}' for n, name in _WIDTHS.items())})."
        )
    given, taken = parts.vae.config.latent_channels, parts.unet.config.in_channels
    if given != taken:  # as with inpainting and depth models
        raise InvalidArgument(f"The autoencoder has {given} latent channels and the denoiser takes {taken}.")
