"""The sampler that a flow-matching transformer and an autoencoder make together with a schedule and an adapter."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from guideflow._given import as_size, in_range
from guideflow.errors import InvalidArgument
from guideflow.sampler import AffineSampler, Row, Schedule
from guideflow.types import Image, Latent
from guideflow_diffusers.checkpointing import active, checkpointed
from guideflow_diffusers.decoding import (
    DecoderGradient,
    compression,
    decode_latents,
    latent_channels,
    load_decoder_gradient,
    require_scaling,
)
from guideflow_diffusers.encoding import encode_latents
from guideflow_diffusers.text import Condition


class FlowAdapter(ABC):
    """How one transformer is called; all else about flow-matching models is the same.

    Attributes:
        patch: Side of what the transformer takes as one token, in latent pixels; sizes are multiples of it.
    """

    patch: ClassVar[int] = 1

    @abstractmethod
    def velocity(
        self,
        transformer: Any,
        z: Latent,
        row: Row,
        text: Tensor,
        pooled: Tensor | None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return v = n - x at z = (1 - sigma) x + sigma n, as an image of latents like z.

        Packing, position ids, the unit of time and the sign of the output are the adapter's work. `row.time` is
        1000 sigma, and `row.end_time` that at the end of the window, for networks that are maps of the flow.

        Arguments:
            transformer: The network.
            z: (B, channels, height, width), in the network's dtype.
            row: Of the schedule.
            text: Encoded prompts, (B, tokens, width).
            pooled: Another encoding of them, (B, width), where the network takes one.
            mask: (B, tokens), false at padding; adapters whose text is never padded need not take it.
        """

    def guided(self, negative: Tensor, positive: Tensor, scale: float) -> Tensor:
        """Combine the velocities without and with the prompt."""
        return negative + scale * (positive - negative)

    def latent_shape(self, vae: Any, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape of a state for an image of a size in pixels."""
        factor = compression(vae)
        return latent_channels(vae), height // factor, width // factor

    def decode(self, vae: Any, z: Latent, gradient: DecoderGradient | None) -> Tensor:
        """Turn final states into images in [0, 1]; by default with the scale and shift of the autoencoder."""
        return decode_latents(vae, z, gradient)

    def encode(self, vae: Any, image: Image) -> Tensor:
        """Turn images in [0, 1] into the final states that `decode` turns back."""
        return encode_latents(vae, image)


@final
class FlowSampler(AffineSampler):
    """An affine sampler of a flow-matching transformer, conditioned on text.

        f(z, sigma) = v(z, sigma, negative) + guidance_scale (v(z, sigma, text) - v(z, sigma, negative))

    States are images of latents, unpacked, whatever the transformer takes. The networks are frozen.

    Arguments:
        transformer: The denoiser.
        vae: The autoencoder.
        adapter: How the transformer is called.
        schedule: The few-step family, with times 1000 sigma.
        encoder: Encodes prompts, (prompts, negative_prompts or None, guided=) -> `Condition`; guided is whether the
            negative side is needed. What stands in for a negative prompt that is None is the encoder's to say.
        guidance_scale: Classifier-free guidance; 1 or less switches it off, and halves the cost.
        image_size: (height, width) in pixels, or one number for a square; the autoencoder's own if None.
        decoder_gradient: As `LatentSampler` takes it.

    Raises:
        InvalidArgument: If the image size or the autoencoder does not fit.
    """

    def __init__(
        self,
        transformer: Any,
        vae: Any,
        adapter: FlowAdapter,
        schedule: Schedule,
        encoder: Callable[..., Condition],
        *,
        guidance_scale: float = 1.0,
        image_size: tuple[int, int] | int | None = None,
        decoder_gradient: str | Path | DecoderGradient | None = "full",
    ) -> None:
        self.transformer, self.vae = (network.eval().requires_grad_(False) for network in (transformer, vae))
        self.adapter, self.schedule, self.encoder = adapter, schedule, encoder
        in_range("guidance_scale", guidance_scale, 0)
        self.guidance_scale = guidance_scale
        require_scaling(vae)
        self.decoder_gradient = load_decoder_gradient(decoder_gradient, vae)
        factor = compression(vae)
        size = vae.config.get("sample_size") if image_size is None else image_size
        self.image_size = as_size(size or _native_side(transformer, factor), "image_size")
        if any(side <= 0 or side % (factor * adapter.patch) for side in self.image_size):
            expected = f"positive multiples of {factor * adapter.patch} pixels"
            raise InvalidArgument(f"Got image_size={image_size}. Expected {expected}.")
        channels, takes = latent_channels(vae), transformer.config.in_channels
        if takes not in (channels, channels * adapter.patch**2):
            raise InvalidArgument(
                f"The autoencoder has {channels} latent channels, which do not fit the transformer's."
            )
        self.latent_shape = adapter.latent_shape(vae, *self.image_size)
        self.device, self.dtype = transformer.device, transformer.dtype

    def condition(self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None) -> Condition:
        """Encode one prompt per image; negative prompts have no effect unless `guidance_scale` is above 1."""
        guided = self.guidance_scale > 1
        if not guided and any(negative_prompts or ()):
            told = f"Negative prompts have no effect at guidance_scale = {self.guidance_scale}: use one above 1."
            warnings.warn(told, stacklevel=2)
        made = self.encoder(prompts, negative_prompts, guided=guided)
        return made.to(self.device, self.dtype)

    def predict(self, z: Latent, row: Row, condition: Condition) -> Tensor:
        """Evaluate the transformer, with classifier-free guidance if it is on."""
        if condition.negative is None:
            return self._velocity(z, row, condition)
        negative, positive = self._velocity(torch.cat([z, z]), row, condition.both()).to(z.dtype).chunk(2)
        return self.adapter.guided(negative, positive, self.guidance_scale)

    def _velocity(self, z: Tensor, row: Row, side: Condition) -> Tensor:
        masked = {} if side.mask is None else {"mask": side.mask}
        network = active(self.transformer)
        return self.adapter.velocity(network, z.to(self.dtype), row, side.text, side.pooled, **masked)

    def decode(self, z: Latent) -> Tensor:
        """Decode latents to images in [0, 1]."""
        return self.adapter.decode(active(self.vae), z, self.decoder_gradient)

    def encode(self, image: Image) -> Tensor:
        """Encode images in [0, 1] to latents."""
        return self.adapter.encode(active(self.vae), image)

    @contextmanager
    def checkpointing(self, least: bool) -> Iterator[None]:
        """Checkpoint the blocks of transformer and decoder; unless `least`, convolutions of the decoder run once."""
        with checkpointed(self.transformer), checkpointed(self.vae, keep_convolutions=not least):
            yield


def _native_side(transformer: Any, factor: int) -> int:
    """Return the side that a transformer was made for, where neither the user nor the autoencoder says."""
    side = transformer.config.get("sample_size")
    return side * factor if side else 1024
