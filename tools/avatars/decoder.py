"""Trains the decoder on, with the encoder frozen: latents stay what they are, pictures get sharper.

    python tools/avatars/decoder.py

Generators trained on the latents stay valid, so this may be run at any time after autoencoder.py.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder import edges, psnr
from common import BASE, as_float, load_data, save_half, step_generator, train
from teacher import load_latents, load_vae

SEED = 8
BATCH = 16


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    steps = parser.parse_args().steps
    latents, images = load_latents("train"), load_data("train")["images"]
    heldout = load_data("heldout")["images"]
    vae = load_vae().to(memory_format=torch.channels_last)
    latents /= vae.config.scaling_factor
    spread = latents.std()
    modules = {"decoder": vae.decoder.requires_grad_(True), "post": vae.post_quant_conv.requires_grad_(True)}

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(SEED, step)
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        x = as_float(images[chosen]).contiguous(memory_format=torch.channels_last) * 2 - 1
        z = latents[chosen].contiguous(memory_format=torch.channels_last)
        # Half of the latents are exact, half slightly wrong like a generator's.
        strength = 0.1 * (torch.rand(BATCH, 1, 1, 1, generator=generator) - 0.5).clamp(min=0) * spread
        z = z + strength * torch.randn(z.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            y = vae.decoder(vae.post_quant_conv(z)).float()
        sharpness = sum((a - b).abs().mean() for a, b in zip(edges(x), edges(y), strict=True))
        return 6 * F.mse_loss(x, y) + 0.5 * (x - y).abs().mean() + 0.5 * sharpness

    def adopt(averaged: dict[str, nn.Module]) -> nn.Module:
        vae.decoder.load_state_dict(averaged["decoder"].state_dict())
        vae.post_quant_conv.load_state_dict(averaged["post"].state_dict())
        return vae

    def report(averaged: dict[str, nn.Module], _: int) -> str:
        live = {key: {k: v.clone() for k, v in module.state_dict().items()} for key, module in modules.items()}
        value = psnr(adopt(averaged), heldout[::6])
        for key, module in modules.items():
            module.load_state_dict(live[key])
        return f"held-out PSNR {value:.2f} dB"

    averaged = train("decoder", modules, loss_of_step, steps=steps, learning_rate=8e-4, report=report, report_every=600)
    save_half(adopt(averaged).to(memory_format=torch.contiguous_format), BASE / "vae")
    print(f"held-out PSNR after rounding to float16: {psnr(vae, heldout):.2f} dB")


if __name__ == "__main__":
    main()
