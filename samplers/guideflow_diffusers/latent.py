"""The sampler that a denoiser, an autoencoder and text encoders make together with a schedule."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from guideflow._given import as_size, in_range
from guideflow.errors import InvalidArgument
from guideflow.sampler import AffineSampler, Row, Schedule
from guideflow.types import Image, Latent
from guideflow_diffusers.checkpointing import active, checkpointed, uncompiled
from guideflow_diffusers.decoding import (
    DecoderGradient,
    compression,
    decode_latents,
    load_decoder_gradient,
    load_small_decoder,
    require_scaling,
)
from guideflow_diffusers.encoding import encode_latents
from guideflow_diffusers.parts import Parts
from guideflow_diffusers.text import Condition, encode_prompts

EMBEDDED_GUIDANCE = 8.5


@final
class LatentSampler(AffineSampler):
    """An affine sampler in the latent space of an autoencoder, conditioned on text, for every base.

        f(z, t) = e(z, t, negative) + guidance_scale (e(z, t, text) - e(z, t, negative))
        image = clip(decoder(z / scaling_factor + shift_factor) / 2 + 1/2, 0, 1)

    A denoiser that takes the guidance scale as an embedding (`time_cond_proj_dim`, full LCM models) is evaluated once,
    with the embedding of guidance_scale - 1. SDXL gets its pooled embedding and time ids, an IP-Adapter its images.

    Arguments:
        parts: The networks.
        schedule: The few-step family.
        guidance_scale: Classifier-free guidance; 1 or less switches it off, and halves the cost. None is 8.5 for a
            denoiser that takes it as an embedding, and off for others.
        image_size: (height, width) in pixels, or one number for a square; the denoiser's own if None.
        decoder_gradient: How to differentiate the decoder: "full" for its own gradient, "tiled" for `TiledGradient()`,
            the folder or Hub id of an `AutoencoderTiny` ("madebyollin/taesd" for SD 1.5 and 2.1, "madebyollin/taesdxl"
            for SDXL), or a `DecoderGradient`. Images, and the loss that is reported for them, stay the full decoder's,
            which is then evaluated without gradient; what changes is the direction in which guidance goes.
        preview_decoder: Decodes the pictures that only solvers see, where they ask for a `preview`: the folder or Hub
            id of an `AutoencoderTiny`, or one. None leaves them to the full decoder.

    Raises:
        InvalidArgument: If the image size or the small decoder does not fit.
        MissingWeights: If the small decoder is on the Hub and cannot be fetched.
    """

    check_prompts: Callable[[Sequence[str]], None] | None = None
    """Called with the prompts before they are encoded."""

    def __init__(
        self,
        parts: Parts,
        schedule: Schedule,
        *,
        guidance_scale: float | None = 1.0,
        image_size: tuple[int, int] | int | None = None,
        decoder_gradient: str | Path | DecoderGradient | None = "full",
        preview_decoder: Any = None,
    ) -> None:
        self.parts = parts
        self.schedule = schedule
        require_scaling(parts.vae)
        self.decoder_gradient = load_decoder_gradient(decoder_gradient, parts.vae)
        if preview_decoder is not None and not isinstance(preview_decoder, nn.Module):
            preview_decoder = load_small_decoder(preview_decoder, parts.vae, option="preview_decoder")
        self.preview_decoder = preview_decoder
        config = parts.unet.config
        factor = 2 ** (len(parts.vae.config.block_out_channels) - 1)
        native = config.sample_size if isinstance(config.sample_size, list | tuple) else [config.sample_size] * 2
        size = (native[0] * factor, native[1] * factor) if image_size is None else image_size
        self.image_size = as_size(size, "image_size")
        if any(side <= 0 or side % factor for side in self.image_size):
            raise InvalidArgument(f"Got image_size={image_size}. Expected positive multiples of {factor} pixels.")
        height, width = (side // factor for side in self.image_size)
        self.latent_shape = (config.in_channels, height, width)
        self.device = parts.unet.device
        self.dtype = parts.unet.dtype
        embedding = config.get("time_cond_proj_dim")
        if guidance_scale is None:
            guidance_scale = 1.0 if embedding is None else EMBEDDED_GUIDANCE
        in_range("guidance_scale", guidance_scale, 0)
        self.guidance_scale = guidance_scale
        self._guidance = None if embedding is None else guidance_embedding(guidance_scale - 1, embedding)
        self._accepts = frozenset(inspect.signature(uncompiled(parts.unet).forward).parameters)

    def replace(self, **changes: Any) -> LatentSampler:
        """Make a sampler that differs in some arguments, on the same networks unless `parts` is among them.

        Arguments:
            changes: `parts`, `schedule`, `guidance_scale`, `image_size`, `decoder_gradient` or `preview_decoder`.

        Returns:
            The other sampler; this one stays as it is.
        """
        names = ("parts", "schedule", "guidance_scale", "image_size", "decoder_gradient", "preview_decoder")
        other = LatentSampler(**{name: getattr(self, name) for name in names} | changes)
        other.check_prompts = self.check_prompts
        return other

    @property
    def guided(self) -> bool:
        """Whether the denoiser is evaluated twice, with and without the prompt."""
        return self.guidance_scale > 1 and self._guidance is None

    def condition(self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None) -> Condition:
        """Encode one prompt per image, each different prompt once.

        Arguments:
            prompts: One for each image.
            negative_prompts: As many, or None for the base's own: the empty prompt, zeros for SDXL. They have no effect
                without classifier-free guidance; a warning says so.

        Returns:
            The encoded prompts.

        Raises:
            InvalidArgument: If there are not as many negative prompts as prompts.
        """
        if not self.guided and any(negative_prompts or ()):
            cure = "guidance_scale above 1" if self._guidance is None else "a checkpoint without a guidance embedding"
            warnings.warn(
                f"Negative prompts have no effect at guidance_scale = {self.guidance_scale}: use {cure}.", stacklevel=2
            )
        if self.check_prompts is not None:
            self.check_prompts(prompts)
        encode = self.parts.encoder or partial(encode_prompts, self.parts)
        return encode(prompts, negative_prompts, guided=self.guided)

    def predict(self, z: Latent, row: Row, condition: Condition) -> Tensor:
        """Evaluate the denoiser, with classifier-free guidance if it is on."""
        if condition.negative is None:
            images = [given for _, given in self._image_prompt(z)]
            return self._denoise(z, row.time, condition.text, condition.pooled, images)
        text = torch.cat([condition.negative, condition.text])
        pooled = None
        if condition.pooled is not None and condition.negative_pooled is not None:
            pooled = torch.cat([condition.negative_pooled, condition.pooled])
        images = [torch.cat(pair) for pair in self._image_prompt(z)]
        both = self._denoise(torch.cat([z, z]), row.time, text, pooled, images)
        negative, positive = both.to(z.dtype).chunk(2)
        return negative + self.guidance_scale * (positive - negative)

    def _image_prompt(self, z: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each adapter, what stands for no image and the images, for every image of the batch."""
        pairs = self.parts.image_prompt
        return [(_repeat(without, len(z)), _repeat(given, len(z))) for given, without in pairs]

    def _denoise(self, z: Tensor, t: float, text: Tensor, pooled: Tensor | None, images: list[Tensor]) -> Tensor:
        time = torch.full((len(z),), t, device=z.device, dtype=torch.float32)
        more: dict[str, Any] = {"timestep": time, "encoder_hidden_states": text}
        if "added_cond_kwargs" in self._accepts:
            added: dict[str, Any] = {}
            if pooled is not None:
                ids = torch.tensor([*self.image_size, 0, 0, *self.image_size], device=z.device, dtype=torch.float32)
                added |= {"text_embeds": pooled, "time_ids": _repeat(ids[None], len(z))}
            if images:
                added["image_embeds"] = images
            more["added_cond_kwargs"] = added or None
        elif "pooled_projections" in self._accepts:
            more["pooled_projections"] = pooled
        if self._guidance is not None:
            more["timestep_cond"] = _repeat(self._guidance.to(z.device, self.dtype), len(z))
        output: Tensor = active(self.parts.unet)(z.to(self.dtype), **more).sample
        # Denoisers with a learned variance append it to the channels.
        return output[:, : z.shape[1]] if output.shape[1] == 2 * z.shape[1] else output

    def decode(self, z: Latent) -> Tensor:
        """Decode latents to images in [0, 1]."""
        return decode_latents(active(self.parts.vae), z, self.decoder_gradient)

    def preview(self, z: Latent) -> Tensor:
        """Decode latents by the small decoder, if there is one."""
        if self.preview_decoder is None:
            return self.decode(z)
        images = decode_latents(active(self.preview_decoder), z)
        sides = tuple(side * compression(self.parts.vae) for side in z.shape[2:])
        if images.shape[2:] != sides:
            given, expected = ("x".join(map(str, one)) for one in (images.shape[2:], sides))
            raise InvalidArgument(
                f"The preview decoder makes pictures of {given} pixels of latents for {expected} (height by width). "
                "Give one of the same base."
            )
        return images

    def encode(self, image: Image) -> Tensor:
        """Encode images in [0, 1] to latents."""
        return encode_latents(active(self.parts.vae), image)

    @contextmanager
    def checkpointing(self, least: bool) -> Iterator[None]:
        """Checkpoint the blocks of denoiser and decoder; unless `least`, convolutions of the decoder run once."""
        with checkpointed(self.parts.unet), checkpointed(self.parts.vae, keep_convolutions=not least):
            yield


def guidance_embedding(scale: float, width: int) -> Tensor:
    """Embed a guidance scale minus 1 as full LCM models take it, (1, width).

        sin and cos of 1000 scale / 10000^(i / (width / 2 - 1))

    Source: Luo et al., "Latent Consistency Models", 2023, section 4.2; Vaswani et al., 2017, section 3.5.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(10000.0) / (half - 1) * torch.arange(half, dtype=torch.float32))
    angles = 1000.0 * scale * frequencies
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()]), (0, width % 2))[None]


def _repeat(one: Tensor, batch: int) -> Tensor:
    return one.expand(batch, *one.shape[1:])
