"""Trains the autoencoder: 64x64 RGB <-> 16 channels of 8x8, in AutoencoderKL's layout.

python tools/avatars/autoencoder.py
"""

from __future__ import annotations

import argparse
import math

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from common import BASE, as_float, load_data, save_half, step_generator, train

SEED = 1
BATCH = 16


def build() -> AutoencoderKL:
    """3.3 million parameters; three halvings of the resolution."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[32, 64, 96, 128],
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels: what makes eyes and mouths crisp."""
    return x.diff(dim=-1), x.diff(dim=-2)


def psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Mean over pictures of 10 log10(1 / mse), pictures in [0, 1]."""
    values = []
    for batch in images.split(100):
        x = as_float(batch)
        with torch.no_grad():
            y = (vae.decode(vae.encode(x * 2 - 1).latent_dist.mode()).sample / 2 + 0.5).clamp(0, 1)
        values.append(-10 * (x - y).square().mean((1, 2, 3)).log10())
    return torch.cat(values).mean().item()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3800)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    vae = build().to(memory_format=torch.channels_last)
    images = load_data("train")["images"]
    heldout = load_data("heldout")["images"][::6]

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(SEED, step)
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        x = as_float(images[chosen]).contiguous(memory_format=torch.channels_last) * 2 - 1
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
        # A decoder that has seen slightly wrong latents forgives a generator's errors.
        strength = 0.1 * torch.rand(BATCH, 1, 1, 1, generator=generator) * posterior.mean.detach().std()
        noisy = z + strength * torch.randn(z.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            y = vae.decode(noisy).sample.float()
        reconstruction = (x - y).abs().mean() + 2 * F.mse_loss(x, y)
        sharpness = sum((a - b).abs().mean() for a, b in zip(edges(x), edges(y), strict=True))
        return reconstruction + sharpness + 1e-6 * posterior.kl().mean() / math.prod(z.shape[1:]) * 100

    def report(averaged: dict[str, nn.Module], _: int) -> str:
        return f"held-out PSNR {psnr(averaged['vae'], heldout):.2f} dB"

    vae = train("autoencoder", {"vae": vae}, loss_of_step, steps=steps, learning_rate=2e-3, report=report)["vae"]
    with torch.no_grad():
        latents = torch.cat([vae.encode(as_float(b) * 2 - 1).latent_dist.mode() for b in images[:2000].split(100)])
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    save_half(vae, BASE / "vae")
    print(f"held-out PSNR after rounding to float16: {psnr(vae, load_data('heldout')['images']):.2f} dB")


if __name__ == "__main__":
    main()
