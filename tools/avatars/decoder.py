"""Trains the autoencoder's decoder further, on the latents as they are: whatever was trained on them stays right.

python tools/avatars/decoder.py

The error is that of `autoencoder.py`, with faces counted twice and squares more: eyes and beards are what is looked at.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from autoencoder import FACE, care, edges, psnr, reconstruct
from common import BASE, DATA, DEVICE, as_float, autocast, load_data, save_half, save_sheet, step_generator, train
from teacher import load_latents, load_vae

SEED = 14
BATCH = 64 if DEVICE.type == "cuda" else 8


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    vae = load_vae()
    images, heldout = load_data("train")["images"], load_data("heldout")["images"]
    latents = load_latents("train") / vae.config.scaling_factor
    spread = latents.std()
    trained = nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
    trained = trained.to(memory_format=torch.channels_last)
    weight = torch.ones(128, 128, device=DEVICE)
    weight[FACE] = 2.0

    def draw(step: int) -> tuple[Tensor, ...]:
        generator = step_generator(SEED, step)
        chosen = torch.randint(len(images), (BATCH,), generator=generator, device=DEVICE)
        # Half of the latents are exact, half slightly wrong like a generator's.
        strength = 0.12 * (torch.rand(BATCH, 1, 1, 1, generator=generator, device=DEVICE) - 0.5).clamp(min=0)
        noise = torch.randn(BATCH, *latents.shape[1:], generator=generator, device=DEVICE)
        return latents[chosen] + strength * spread * noise, as_float(images[chosen]) * 2 - 1

    def loss(z: Tensor, x: Tensor) -> Tensor:
        with autocast():
            y = trained[1](trained[0](z.contiguous(memory_format=torch.channels_last)))
        y = y.float()
        error = (x - y).abs()
        sharpness = sum((a - b).abs().mean() for a, b in zip(edges(x), edges(y), strict=True))
        return (weight * care(x) * (0.4 * error + 8 * error.square())).mean() + sharpness

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        vae.post_quant_conv, vae.decoder = averaged["decoder"]
        x, y = as_float(heldout[::6]), reconstruct(vae, heldout[::6])
        vae.post_quant_conv, vae.decoder = trained
        sheet = DATA / "sheets" / f"decoder-{step}.png"
        sheet = save_sheet(torch.stack([x[:32], y[:32]], 1).flatten(0, 1), sheet, 16)
        faces = psnr(x[..., FACE[0], FACE[1]], y[..., FACE[0], FACE[1]])
        return f"held-out PSNR {psnr(x, y).mean():.2f} dB, faces {faces.mean():.2f} dB, {sheet}"

    modules = {"decoder": trained}
    print("before:", report(modules, 0), flush=True)
    averaged = train(
        "decoder", modules, loss, draw=draw, steps=steps, learning_rate=7e-4, report=report, report_every=2000
    )["decoder"]
    vae.post_quant_conv, vae.decoder = averaged
    save_half(vae, BASE / "vae")


if __name__ == "__main__":
    main()
