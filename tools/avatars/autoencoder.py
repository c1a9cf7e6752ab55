"""Trains the autoencoder: 128x128 RGB <-> 8 channels of 16x16, in AutoencoderKL's layout.

    python tools/avatars/autoencoder.py

Half of what it sees are close-ups of faces, and every pixel counts the more, up to five times, the less contrast its
surroundings have: a dark face on which eyes and beard differ little from the skin is as dear as a light one.
"""

from __future__ import annotations

import argparse

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from common import BASE, DATA, DEVICE, as_float, autocast, load_data, save_half, save_sheet, step_generator, train

SEED = 1
WHOLE, FACES = (48, 56) if DEVICE.type == "cuda" else (6, 8)  # pictures and close-ups of a step
CROP = 80  # ten latent positions
CONTRAST = 0.08  # standard deviation in a 5x5 neighbourhood that gets the largest weight
FACE = (slice(20, 104), slice(28, 100))  # rows and columns that hold the face


def build() -> AutoencoderKL:
    """3.1 million parameters; three halvings of the resolution."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[24, 48, 96, 128],
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=128,
        mid_block_add_attention=False,
    )


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels: what makes eyes and mouths crisp."""
    return x.diff(dim=-1), x.diff(dim=-2)


def care(x: Tensor) -> Tensor:
    """Weight of every pixel, 1 to 5: largest where the local contrast s is small but not nothing, 1 + 4 s e^(1 - s)."""
    grey = x.mean(1, keepdim=True) / 2
    mean, square = (F.avg_pool2d(F.pad(v, (2, 2, 2, 2), mode="replicate"), 5, 1) for v in (grey, grey.square()))
    s = (square - mean.square()).clamp(min=0).sqrt() / CONTRAST
    return 1 + 4 * s * (1 - s).exp()


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """uint8 pictures through the autoencoder, in [0, 1]."""
    batches = (as_float(batch) * 2 - 1 for batch in images.split(100))
    return torch.cat([(vae.decode(vae.encode(x).latent_dist.mode()).sample / 2 + 0.5).clamp(0, 1) for x in batches])


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """10 log10(1 / mse) of each picture in [0, 1]."""
    return -10 * (x - y).square().mean((1, 2, 3)).log10()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=9000)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    vae = build().to(DEVICE, memory_format=torch.channels_last)
    images, heldout = load_data("train")["images"], load_data("heldout")["images"]

    def loss_of(x: Tensor, generator: torch.Generator) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        with autocast():
            posterior = vae.encode(x).latent_dist
        mean = posterior.mean.float()
        # Half of the latents are exact, half slightly wrong like a generator's.
        strength = 0.12 * (torch.rand(len(x), 1, 1, 1, generator=generator, device=DEVICE) - 0.5).clamp(min=0)
        noise = torch.randn(mean.shape, generator=generator, device=DEVICE)
        with autocast():
            y = vae.decode(mean + strength * mean.detach().std() * noise).sample
        y = y.float()
        weight = care(x)
        reconstruction = (weight * (0.5 * (x - y).abs() + 4 * (x - y).square())).mean()
        sharpness = sum((a - b).abs().mean() for a, b in zip(edges(x), edges(y), strict=True))
        size = 1e-4 * (mean.square().mean() + mean.mean((0, 2, 3)).square().mean())  # latents of a size to learn on
        return reconstruction + sharpness + size

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(SEED, step)
        chosen = torch.randint(len(images), (WHOLE + FACES,), generator=generator, device=DEVICE)
        whole, near = chosen.split((WHOLE, FACES))
        # Close-ups start at multiples of 8, so that latent positions fall where they fall in the whole picture.
        place = torch.Generator().manual_seed(step)
        top, left = (8 * torch.randint(1, 6, (2,), generator=place)).tolist()
        crops = images[near, :, top : top + CROP, left : left + CROP]
        return loss_of(as_float(images[whole]) * 2 - 1, generator) + loss_of(as_float(crops) * 2 - 1, generator)

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        chosen = heldout[::6]
        x, y = as_float(chosen), reconstruct(averaged["vae"], chosen)
        sheet = save_sheet(torch.stack([x[:32], y[:32]], 1).flatten(0, 1), DATA / "sheets" / f"vae-{step}.png", 16)
        faces = psnr(x[..., FACE[0], FACE[1]], y[..., FACE[0], FACE[1]])
        return f"held-out PSNR {psnr(x, y).mean():.2f} dB, faces {faces.mean():.2f} dB, {sheet}"

    vae = train(
        "autoencoder", {"vae": vae}, loss_of_step, steps=steps, learning_rate=2e-3, report=report, report_every=1000
    )["vae"]
    with torch.no_grad():
        batches = images[:4000].split(100)
        latents = torch.cat([vae.encode(as_float(b) * 2 - 1).latent_dist.mode() for b in batches])
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    print("latents' means", latents.mean((0, 2, 3)).tolist(), "and spreads", latents.std((0, 2, 3)).tolist())
    save_half(vae, BASE / "vae")


if __name__ == "__main__":
    main()
