"""Trains a small decoder of the same latents, for pictures that only solvers see: `avatars-*` samplers preview by it.

python tools/avatars/preview.py

It learns from the full decoder, on what the families make of training captions: finished latents, those that are
expected in the middle of a trajectory, and both blended or under noise, as guidance leaves them. No renders are needed.
"""

from __future__ import annotations

import argparse
import json
import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import captions
import guideflow as gf
import world
from common import BASE, DATA, DEVICE, as_float, save_half, step_generator, train
from guideflow.solvers import Outlook

SEED, BATCH, COUNT = 21, 16, 2400
FAMILIES = ("perflow", "rectified-flow", "turbo", "pcm")
CHANNELS, BLOCKS = 24, (4, 3, 1, 0)


@torch.no_grad()
def collect() -> dict[str, Tensor]:
    """Draw latents and decode them in full; remembered on disk."""
    path = DATA / "preview-pairs.pt"
    if path.exists():
        return torch.load(path, weights_only=True, map_location=DEVICE)
    rng, generator, latents, images = random.Random(SEED), torch.Generator().manual_seed(SEED), [], []
    samplers = [gf.load_sampler(f"avatars-{family}", device=str(DEVICE)) for family in FAMILIES]
    for batch in range(COUNT // BATCH):
        sampler = samplers[batch % len(samplers)]
        outlook = Outlook.of(sampler.schedule)
        texts = [captions.plain(world.sample_portrait(rng, 0)) for _ in range(BATCH // 2)]
        condition = sampler.condition(texts)
        noise = gf.draw_noise(sampler, range(batch * BATCH, batch * BATCH + len(texts)))
        z, at, expected = sampler.prepare(noise.initial), rng.randrange(sampler.num_steps), None
        for k, row in enumerate(sampler.schedule):
            f = sampler.predict(z, row, condition)
            if k == at:
                expected = outlook.state[k] * z + outlook.output[k] * f
            z = row.state * z + row.output * f
            z = z if noise.steps[k] is None else z + row.noise * noise.steps[k]
        z = torch.cat([z, expected])
        blend = torch.rand(len(z), 1, 1, 1, generator=generator).to(z) * (rng.random() < 0.3)
        strength = 0.4 * (torch.rand(len(z), 1, 1, 1, generator=generator) - 0.5).clamp(min=0).to(z)
        z = (1 - blend) * z + blend * z.roll(1, 0)
        z = z + strength * torch.randn(z.shape, generator=generator).to(z)
        latents.append(z.half())
        images.append((sampler.decode(z) * 255).round().byte())
        if batch % 10 == 0:
            print(f"pairs {(batch + 1) * BATCH}/{COUNT}", flush=True)
    pairs = {"latents": torch.cat(latents), "images": torch.cat(images)}
    torch.save(pairs, path)
    return pairs


def main() -> None:
    """Command line."""
    from diffusers import AutoencoderTiny

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    pairs = collect()
    held = len(pairs["latents"]) // 20
    tiny = AutoencoderTiny(
        latent_channels=pairs["latents"].shape[1],
        encoder_block_out_channels=(8,) * 4,  # which nobody calls
        num_encoder_blocks=(0,) * 4,
        decoder_block_out_channels=(CHANNELS,) * 4,
        num_decoder_blocks=BLOCKS,
    )
    trained = tiny.decoder.to(DEVICE, memory_format=torch.channels_last)

    def draw(step: int) -> tuple[Tensor, ...]:
        chosen = torch.randint(held, len(pairs["latents"]), (BATCH,), generator=step_generator(SEED, step))
        return pairs["latents"][chosen].float(), as_float(pairs["images"][chosen])

    def error(z: Tensor, x: Tensor) -> Tensor:
        y = trained(z.contiguous(memory_format=torch.channels_last)) / 2 + 0.5
        return sum((F.avg_pool2d(y - x, size).abs().mean() for size in (1, 2, 4, 8)), torch.zeros((), device=DEVICE))

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        z, x = pairs["latents"][:held].float(), as_float(pairs["images"][:held])
        with torch.no_grad():
            y = (averaged["decoder"](z) / 2 + 0.5).clamp(0, 1)
        return f"held-out PSNR to the full decoder {-10 * (y - x).square().mean((1, 2, 3)).log10().mean():.2f} dB"

    tiny.decoder = train(
        "preview", {"decoder": trained}, error, draw=draw, steps=steps, learning_rate=3e-3, ema=0.995, report=report
    )["decoder"]
    save_half(tiny, BASE.parent / "preview")
    config = BASE.parent / "preview" / "config.json"
    kept = {name: value for name, value in json.loads(config.read_text()).items() if name != "block_out_channels"}
    config.write_text(json.dumps(kept, indent=2) + "\n")  # diffusers writes that one down and warns when it reads it


if __name__ == "__main__":
    main()
