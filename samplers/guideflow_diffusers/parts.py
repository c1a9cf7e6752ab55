"""The parts of a latent text-to-image model, and the sampler they make together with a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from guideflow.errors import InvalidArgument
from guideflow.registry import require
from guideflow.sampler import AffineSampler
from guideflow.schedule import Schedule
from guideflow.types import Latent
from guideflow_diffusers.quiet import without_progress_bars


@dataclass(frozen=True)
class Parts:
    """A frozen text-to-image model in pieces.

    Arguments:
        unet: Denoiser with diffusers' `UNet2DConditionModel` call.
        vae: `AutoencoderKL`.
        tokenizer: `CLIPTokenizer`.
        text_encoder: `CLIPTextModel`.
    """

    unet: Any
    vae: Any
    tokenizer: Any
    text_encoder: Any

    def __post_init__(self) -> None:
        """Freeze the networks: guidance differentiates with respect to states, never to weights."""
        for network in (self.unet, self.vae, self.text_encoder):
            network.eval().requires_grad_(False)


def load_parts(folder: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Parts:
    """Load the parts of a diffusers folder.

    Arguments:
        folder: A local folder with `unet`, `vae`, `tokenizer` and `text_encoder` inside.
        dtype: Of the denoiser and the text encoder; the autoencoder stays in float32 (float64 with float64), where
            half precision overflows or blurs its gradient.
        device: Where to put them.

    Returns:
        The parts, frozen.

    Raises:
        InvalidArgument: If the folder lacks one of them.
        MissingExtra: If diffusers is not installed.
    """
    folder = Path(folder)
    missing = [name for name in ("unet", "vae", "tokenizer", "text_encoder") if not (folder / name).is_dir()]
    if missing:
        raise InvalidArgument(
            f"{folder} is no diffusers folder: {', '.join(missing)} not found in it. Expected a folder written by "
            "`pipeline.save_pretrained(folder)`, with unet, vae, tokenizer and text_encoder inside."
        )
    diffusers = require("diffusers", extra="diffusers")
    transformers = require("transformers", extra="diffusers")
    vae_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    with without_progress_bars():
        return Parts(
            unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype).to(device),
            vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=vae_dtype).to(device),
            tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            text_encoder=transformers.CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype).to(device),
        )


@dataclass(frozen=True)
class Condition:
    """Encoded prompts, (B, tokens, width); `negative` is None when guidance by prompt is off."""

    text: Tensor
    negative: Tensor | None


@final
class LatentSampler(AffineSampler):
    """An affine sampler in the latent space of an autoencoder, conditioned on text.

        f(z, t) = e(z, t, negative) + guidance_scale (e(z, t, text) - e(z, t, negative))
        image = clip(decoder(z / scaling_factor) / 2 + 1/2, 0, 1)

    Arguments:
        parts: The networks.
        schedule: The few-step family.
        guidance_scale: Classifier-free guidance; 1 or less switches it off, and halves the cost.
        image_size: (height, width) in pixels; the denoiser's own if None.
    """

    def __init__(
        self,
        parts: Parts,
        schedule: Schedule,
        *,
        guidance_scale: float = 1.0,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        """Check that the image size fits the networks."""
        self.parts = parts
        self.schedule = schedule
        self.guidance_scale = guidance_scale
        factor = 2 ** (len(parts.vae.config.block_out_channels) - 1)
        native = parts.unet.config.sample_size * factor
        self.image_size = image_size or (native, native)
        if any(side <= 0 or side % factor for side in self.image_size):
            raise InvalidArgument(f"Got image_size = {image_size}. Expected positive multiples of {factor} pixels.")
        height, width = (side // factor for side in self.image_size)
        self.latent_shape = (parts.unet.config.in_channels, height, width)
        self.device = parts.unet.device
        self.dtype = parts.unet.dtype

    def condition(self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None) -> Condition:
        """Encode one prompt per image; without negative prompts the empty one stands in."""
        if self.guidance_scale <= 1:
            return Condition(self._encode(prompts), None)
        return Condition(self._encode(prompts), self._encode(negative_prompts or [""] * len(prompts)))

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str]) -> Tensor:
        length = self.parts.tokenizer.model_max_length
        tokens = self.parts.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        hidden: Tensor = self.parts.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state
        return hidden

    def predict(self, z: Latent, t: float, condition: Condition) -> Tensor:
        """Evaluate the denoiser with classifier-free guidance."""
        network = self.parts.unet
        if condition.negative is None:
            return _denoise(network, z.to(self.dtype), t, condition.text)
        both = _denoise(network, torch.cat([z, z]).to(self.dtype), t, torch.cat([condition.negative, condition.text]))
        negative, text = both.to(z.dtype).chunk(2)
        return negative + self.guidance_scale * (text - negative)

    def decode(self, z: Latent) -> Tensor:
        """Decode latents to pictures in [0, 1]."""
        vae = self.parts.vae
        picture: Tensor = vae.decode(z.to(vae.dtype) / vae.config.scaling_factor).sample
        return (picture / 2 + 0.5).clamp(0, 1)


def _denoise(network: nn.Module, z: Tensor, t: float, text: Tensor) -> Tensor:
    time = torch.full((len(z),), t, device=z.device, dtype=torch.float32)
    output: Tensor = network(z, time, encoder_hidden_states=text).sample
    return output
