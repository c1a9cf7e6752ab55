"""FLUX.2: a flow transformer on folded latents, which takes pictures as further tokens (Black Forest Labs, 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from guideflow._require import require
from guideflow.errors import InvalidImage
from guideflow.images import to_pil
from guideflow.losses.vision import read_images
from guideflow.sampler import Row
from guideflow.types import Latent
from guideflow_diffusers.decoding import DecoderGradient, compression, decode_latents, latent_channels
from guideflow_diffusers.flow import FlowAdapter
from guideflow_diffusers.text import Condition

_APART = 10  # in the first coordinate, from one picture to the next
_SMALLEST, _LONGEST, _AREA = 64, 8, 1024 * 1024  # of a reference, as the pipeline has it


@final
@dataclass(frozen=True)
class Flux2Adapter(FlowAdapter):
    """How `Flux2Transformer2DModel` is called: a state's pixel a token, four coordinates, time sigma, output v.

    States are folded, (4 C, height / 2, width / 2) of the autoencoder's latents, and normalised by the autoencoder's
    running statistics.

    Arguments:
        references: Pictures to draw after, encoded by `encode_pictures`, (1, 4 C, height, width) each. All images of a
            batch see all of them.
    """

    references: tuple[Tensor, ...] = ()
    patch: ClassVar[int] = 2

    def latent_shape(self, vae: Any, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape of a folded state."""
        token = self.patch * compression(vae)
        return latent_channels(vae) * self.patch**2, height // token, width // token

    def velocity(
        self,
        transformer: Any,
        z: Latent,
        row: Row,
        text: Tensor,
        pooled: Tensor | None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Evaluate on the tokens of the state and, behind them, of the pictures; keep those of the state."""
        batch, _, height, width = z.shape
        pictures = [z, *(one.to(z).expand(batch, *one.shape[1:]) for one in self.references)]
        at = torch.cat([_positions(_APART * i, *one.shape[-2:]) for i, one in enumerate(pictures)])
        words = torch.zeros(text.shape[1], 4, dtype=torch.long)
        words[:, 3] = torch.arange(text.shape[1])
        tokens = transformer(
            hidden_states=torch.cat([one.flatten(2).mT for one in pictures], dim=1),
            timestep=torch.full((batch,), row.time / 1000, device=z.device, dtype=torch.float32),
            guidance=None,
            encoder_hidden_states=text,
            txt_ids=words.to(z.device).expand(batch, -1, -1),
            img_ids=at.to(z.device).expand(batch, -1, -1),
        ).sample
        return tokens[:, : height * width].mT.unflatten(2, (height, width))

    def decode(self, vae: Any, z: Latent, gradient: DecoderGradient | None) -> Tensor:
        """Undo normalisation and folding, and decode."""
        mean, deviation = _statistics(vae, z)
        return decode_latents(vae, unfold(z * deviation + mean), gradient)


def encode_pictures(vae: Any, given: Any, what: str = "reference") -> tuple[Tensor, ...]:
    """Encode pictures as references, (1, 4 C, height, width) each, as the pipeline does.

    Arguments:
        vae: `AutoencoderKLFlux2`.
        given: A path, a picture of Pillow's, an array or a tensor, or several. Above 1024x1024 pixels one is made
            smaller; what goes beyond whole tokens is cut off.
        what: What messages call it.

    Raises:
        InvalidImage: If one is no image, smaller than 64x64 pixels, or more than eight times as long as wide.
    """
    return tuple(_encode(vae, to_pil(image), what) for image in read_images(given, what=what))


def _encode(vae: Any, picture: Any, what: str) -> Tensor:
    kind = require("diffusers.pipelines.flux2.image_processor", extra="diffusers").Flux2ImageProcessor
    token = 2 * compression(vae)
    processor = kind(vae_scale_factor=token)
    if min(picture.size) < _SMALLEST or max(picture.size) > _LONGEST * min(picture.size):
        size = f"{picture.width}x{picture.height} pixels"
        raise InvalidImage(f"Got {what} of {size}. Expected sides of 64 at least, and not above 8:1.")
    if picture.width * picture.height > _AREA:
        picture = processor._resize_to_target_area(picture, _AREA)
    width, height = (side // token * token for side in picture.size)
    pixels = processor.preprocess(picture, height=height, width=width, resize_mode="crop")
    with torch.no_grad():
        latent = fold(vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode())
    mean, deviation = _statistics(vae, latent)
    return (latent - mean) / deviation


def fold(latents: Tensor) -> Tensor:
    """Turn latents into those of half the sides, (B, C, 2 h, 2 w) to (B, 4 C, h, w)."""
    return torch.nn.functional.pixel_unshuffle(latents, 2)


def unfold(z: Tensor) -> Tensor:
    """Turn folded latents back, (B, 4 C, h, w) to (B, C, 2 h, 2 w)."""
    return torch.nn.functional.pixel_shuffle(z, 2)


def encode_flux2(
    pipe: Any,
    device: torch.device,
    options: Mapping[str, Any],
    prompts: Sequence[str],
    negative_prompts: Sequence[str] | None,
    *,
    guided: bool,
) -> Condition:
    """Let the pipeline encode prompts; without negative ones the empty prompt stands in."""
    more = {
        "device": device,
        "max_sequence_length": options["max_sequence_length"],
        "text_encoder_out_layers": options["text_encoder_out_layers"],
    }
    text, _ = pipe.encode_prompt(list(prompts), **more)
    if not guided:
        return Condition(text)
    negative, _ = pipe.encode_prompt(list(negative_prompts or [""] * len(prompts)), **more)
    return Condition(text, negative)


def _positions(picture: int, height: int, width: int) -> Tensor:
    axes = torch.tensor([picture]), torch.arange(height), torch.arange(width), torch.arange(1)
    return torch.cartesian_prod(*axes)


def _statistics(vae: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    variance = vae.bn.running_var + vae.config.batch_norm_eps
    mean, deviation = (one.view(1, -1, 1, 1).to(z) for one in (vae.bn.running_mean, variance.sqrt()))
    return mean, deviation
