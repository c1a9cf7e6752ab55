"""Trains the whole autoencoder on, with an eye for faces and for what little contrast a dark or a grey one has.

    python tools/avatars/sharpen.py

Goes on from the weights of autoencoder.py and decoder.py. Latents change, so generators are trained after it.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder import edges, psnr
from common import BASE, DATA, as_float, load_data, save_half, step_generator, train
from teacher import load_vae

SEED = 9
WHOLE, FACES = 8, 20  # pictures and close-ups of a step
CROP = 40  # five latent positions
CONTRAST = 0.08  # standard deviation in a 5x5 neighbourhood that gets the largest weight


def care(x: Tensor) -> Tensor:
    """Weight of every pixel, 1 to 5: largest where the local contrast s is small but not nothing, 1 + 4 s e^(1 - s)."""
    grey = x.mean(1, keepdim=True) / 2
    mean, square = (F.avg_pool2d(F.pad(v, (2, 2, 2, 2), mode="replicate"), 5, 1) for v in (grey, grey.square()))
    s = (square - mean.square()).clamp(min=0).sqrt() / CONTRAST
    return 1 + 4 * s * (1 - s).exp()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2400)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    images, heldout = load_data("train")["images"], load_data("heldout")["images"]
    vae = load_vae().to(memory_format=torch.channels_last).train().requires_grad_(True)

    def loss_of(x: Tensor, generator: torch.Generator) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
        z = posterior.mean
        # Half of the latents are exact, half slightly wrong like a generator's.
        strength = 0.1 * (torch.rand(len(x), 1, 1, 1, generator=generator) - 0.5).clamp(min=0) * z.detach().std()
        with torch.autocast("cpu", torch.bfloat16):
            y = vae.decode(z + strength * torch.randn(z.shape, generator=generator)).sample.float()
        weight = care(x)
        reconstruction = (weight * (0.5 * (x - y).abs() + 4 * (x - y).square())).mean()
        sharpness = sum((a - b).abs().mean() for a, b in zip(edges(x), edges(y), strict=True))
        return reconstruction + sharpness + 1e-6 * posterior.kl().mean() / z[0].numel() * 100

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(SEED, step)
        whole, near = torch.randint(len(images), (WHOLE + FACES,), generator=generator).split((WHOLE, FACES))
        # Close-ups start at multiples of 8, so that latent positions fall where they fall in the whole picture.
        top, left = (8 * torch.randint(1, 3, (2,), generator=generator)).tolist()
        crops = images[near, :, top : top + CROP, left : left + CROP]
        return loss_of(as_float(images[whole]) * 2 - 1, generator) + loss_of(as_float(crops) * 2 - 1, generator)

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        from torchvision.utils import save_image

        x = as_float(heldout[:96])
        with torch.no_grad():
            z = averaged["vae"].encode(x * 2 - 1).latent_dist.mode()
            y = (averaged["vae"].decode(z).sample / 2 + 0.5).clamp(0, 1)
        path = DATA / f"sharpen-{step}.png"
        save_image(torch.stack([x[:48], y[:48]], 1).flatten(0, 1), path, nrow=16)
        return f"held-out PSNR {psnr(averaged['vae'], heldout[::6]):.2f} dB, wrote {path}"

    vae = train(
        "sharpen", {"vae": vae}, loss_of_step, steps=steps, learning_rate=1e-3, report=report, report_every=400
    )["vae"].to(memory_format=torch.contiguous_format)
    with torch.no_grad():
        latents = torch.cat([vae.encode(as_float(b) * 2 - 1).latent_dist.mode() for b in images[:2000].split(100)])
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    save_half(vae, BASE / "vae")
    print(f"held-out PSNR after rounding to float16: {psnr(vae, heldout):.2f} dB")


if __name__ == "__main__":
    main()
