"""Decoders: latents to images, and cheaper gradients for the same images."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from guideflow._require import missing_weights, require
from guideflow._told import said
from guideflow.errors import InvalidArgument
from guideflow_diffusers.checkpoints import load_network
from guideflow_diffusers.hub import locate


def decode_latents(vae: Any, z: Tensor, gradient: DecoderGradient | None = None) -> Tensor:
    """Undo a base's scaling of its latents and decode them.

        image = clip(decoder(z std / scaling_factor + mean) / 2 + 1/2, 0, 1)

    The configuration has `scaling_factor`, and either `shift_factor` (the mean), or `latents_mean` and `latents_std`
    for each channel, or neither. `gradient` stands in for the decoder's own; the image is the decoder's either way.
    """
    image: Tensor = unscale_and_decode(vae, z) if gradient is None else _Borrowed.apply(z, vae, gradient)
    return (image / 2 + 0.5).clamp(0, 1)


def compression(vae: Any) -> int:
    """Return how many pixels a side of one latent pixel is."""
    found: int = getattr(vae, "spatial_compression_ratio", 0) or 2 ** (len(vae.config.block_out_channels) - 1)
    return found


def latent_channels(vae: Any) -> int:
    """Return how many channels an autoencoder's latents have."""
    found: int = vae.config.get("latent_channels") or vae.config.z_dim
    return found


def require_scaling(vae: Any) -> None:
    """Refuse an autoencoder whose configuration does not say how its latents are scaled, in numbers."""
    for name in ("scaling_factor", "shift_factor", "latents_mean", "latents_std"):
        given, divides = vae.config.get(name), name in ("scaling_factor", "latents_std")
        for value in given if isinstance(given, list | tuple) and name.startswith("latents") else [given]:
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if value is not None and (not number or (divides and value == 0)):
                raise InvalidArgument(
                    f"The configuration of the autoencoder has {name}={said(given)}. Expected finite numbers"
                    f"{' other than 0' * divides}. Save or download it again."
                )


def unscale_and_decode(vae: Any, z: Tensor) -> Tensor:
    """Return the decoder's own output, about [-1, 1]; arguments as `decode_latents`."""
    config = vae.config
    z = z.to(vae.dtype)
    scale = config.get("scaling_factor") or 1.0
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        mean, std = (torch.tensor(values, dtype=z.dtype, device=z.device).view(1, -1, 1, 1) for values in (mean, std))
        z = z * std / scale + mean
    else:
        z = z / scale + (config.get("shift_factor") or 0.0)
    image: Tensor
    if "temperal_downsample" in config:  # of video, which takes frames; diffusers spells it so
        own = copy.copy(vae)  # it keeps what it saw while it decodes, and other threads decode too
        image = own.decode(z[:, :, None]).sample[:, :, 0]
    else:
        image = vae.decode(z).sample
    return image


class DecoderGradient(ABC):
    """A stand-in for the gradient of a decoder."""

    @abstractmethod
    def pull_back(self, vae: Any, z: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient at the latents for one at the decoder's output, (B, 3, H, W)."""


@final
@dataclass(frozen=True)
class TiledGradient(DecoderGradient):
    """The gradient of decoding overlapping tiles and blending them linearly, one tile after another.

        dL/dz = sum_i J_i^T (w_i dL/dx),    sum_i w_i = 1 at every pixel

    with J_i the Jacobian of decoding tile i alone and w_i its weight, which falls to the tile's inner edges. Keeps what
    one tile keeps. Not exact: a tile does not see the rest of the image, which normalisation and attention in the
    decoder do.

    Arguments:
        tile: Side of a tile, in latent pixels.
        overlap: What neighbours share at least.
    """

    tile: int = 40
    overlap: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.tile:
            raise InvalidArgument(
                f"Got tile = {self.tile} and overlap = {self.overlap}. Expected 0 <= overlap < tile, such as 40 and 8."
            )

    def pull_back(self, vae: Any, z: Tensor, gradient: Tensor) -> Tensor:
        """Sum the gradients of all tiles."""
        found = torch.zeros_like(z)
        factor = gradient.shape[-1] // z.shape[-1]
        for top, height, rows in self.tiles(z.shape[-2], factor):
            for left, width, columns in self.tiles(z.shape[-1], factor):
                spans = slice(top, top + height), slice(left, left + width)
                tile, pixels = (..., *spans), (..., *(slice(s.start * factor, s.stop * factor) for s in spans))
                weight = (rows[:, None] * columns).to(gradient)
                found[tile] += _vector_jacobian(partial(unscale_and_decode, vae), z[tile], weight * gradient[pixels])
        return found

    def tiles(self, size: int, factor: int) -> list[tuple[int, int, Tensor]]:
        """Cut one side into tiles: the first latent pixel, the number of them and the weight of each pixel."""
        length = min(self.tile, size)
        count = 1 if length == size else -(-(size - self.overlap) // (self.tile - self.overlap))
        starts = [round(i * (size - length) / max(count - 1, 1)) for i in range(count)]
        # Pixel centres; the slope reaches its end where a tile does, so no pixel is without weight.
        at = (torch.arange(size * factor, dtype=torch.float64) + 0.5) / factor
        slope = max(self.overlap, 1)
        raw = []
        for start in starts:
            rise = at - start if start > 0 else torch.full_like(at, slope)
            fall = start + length - at if start + length < size else torch.full_like(at, slope)
            raw.append(torch.minimum(rise, fall).clamp(0, slope))
        total = torch.stack(raw).sum(0)
        pieces = zip(starts, raw, strict=True)
        return [(a, length, (w / total)[a * factor : (a + length) * factor]) for a, w in pieces]


@final
@dataclass(frozen=True)
class TinyGradient(DecoderGradient):
    """The gradient of a small decoder of the same latents, such as TAESD.

    Arguments:
        vae: diffusers' `AutoencoderTiny`, or any autoencoder that `decode_latents` takes.

    Source: https://github.com/madebyollin/taesd, for the decoders; their gradient beneath the full decoder's image is
    a straight-through estimator (Bengio et al., 2013).
    """

    vae: Any

    def pull_back(self, vae: Any, z: Tensor, gradient: Tensor) -> Tensor:
        """Return the small decoder's gradient."""
        return _vector_jacobian(partial(unscale_and_decode, self.vae), z, gradient)


def load_decoder_gradient(how: str | Path | DecoderGradient | None, vae: Any) -> DecoderGradient | None:
    """Read what `LatentSampler` takes as `decoder_gradient`; None for the decoder's own gradient."""
    if how is None or isinstance(how, DecoderGradient):
        return how
    if how in ("full", "tiled"):
        return TiledGradient() if how == "tiled" else None
    return TinyGradient(load_small_decoder(how, vae, option="decoder_gradient", others="'full', 'tiled', or "))


def load_small_decoder(source: str | Path, vae: Any, *, option: str, others: str = "") -> Any:
    """Load a small decoder of a decoder's latents from a folder or the Hub; messages name the option, and `others`."""
    folder = locate(source, option=option, components=())
    if not (folder / "config.json").is_file():
        raise InvalidArgument(
            f"Got {option} = {str(source)!r}, a folder without config.json. Expected {others}the folder or Hub id of "
            "an AutoencoderTiny, such as 'madebyollin/taesd'."
        )
    kind = require("diffusers", extra="diffusers").AutoencoderTiny
    if not any(folder.glob("*.safetensors")):
        why = f"{folder} has no .safetensors"
        raise missing_weights(source, option, why, ("*.json", "*.safetensors"))
    tiny = load_network(kind, folder, torch_dtype=vae.dtype)
    takes, given = tiny.config.latent_channels, latent_channels(vae)
    if takes != given:
        raise InvalidArgument(f"The decoder {source} takes {takes} latent channels and the sampler's has {given}.")
    return tiny.to(vae.device).eval().requires_grad_(False)


class _Borrowed(torch.autograd.Function):
    """The full decoder's image with the gradient of a stand-in."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, vae: Any, gradient: DecoderGradient) -> Tensor:
        ctx.save_for_backward(z)
        ctx.vae, ctx.gradient = vae, gradient
        return unscale_and_decode(vae, z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (z,) = ctx.saved_tensors
        return ctx.gradient.pull_back(ctx.vae, z, gradient), None, None


def _vector_jacobian(decode: Any, z: Tensor, gradient: Tensor) -> Tensor:
    start = z.detach().requires_grad_()
    with torch.enable_grad():
        image = decode(start)
    if image.shape != gradient.shape:
        sizes = f"{tuple(image.shape)}, the full one into {tuple(gradient.shape)}"
        raise InvalidArgument(f"The small decoder turns latents into {sizes}. Give one of the same base.")
    return torch.autograd.grad(image, start, gradient.to(image.dtype))[0]
