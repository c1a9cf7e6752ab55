"""Encoders: images to the latents that `decode_latents` turns back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from guideflow.errors import InvalidArgument


@torch.no_grad()
def encode_latents(vae: Any, image: Tensor) -> Tensor:
    """Encode images and scale their latents as a base's denoiser takes them.

        z = (encoder(2 image - 1) - mean) scaling_factor / std

    Of an autoencoder whose encoder gives a distribution its mode is taken, so nothing is random. The configuration is
    that of `decode_latents`.

    Arguments:
        vae: The autoencoder.
        image: (B, 3, H, W) in [0, 1].

    Raises:
        InvalidArgument: If the autoencoder has no encoder.
    """
    if getattr(vae, "encoder", None) is None:
        raise InvalidArgument(f"The {type(vae).__name__} has no encoder, so it cannot begin at a picture.")
    config, found = vae.config, vae.encode((image * 2 - 1).to(vae.dtype))
    z: Tensor = found.latent_dist.mode() if hasattr(found, "latent_dist") else found[0]
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        mean, std = (torch.tensor(values, dtype=z.dtype, device=z.device).view(1, -1, 1, 1) for values in (mean, std))
        return (z - mean) * config.scaling_factor / std
    return (z - (config.get("shift_factor") or 0.0)) * config.scaling_factor
