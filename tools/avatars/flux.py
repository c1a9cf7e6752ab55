"""Trains a transformer of FLUX's make to a rectified flow on the teacher's pairs of noise and clean latent: reflow.

    python tools/avatars/flux.py

On the straight line z = (1 - s) x + s n it predicts the velocity n - x at time s (Black Forest Labs' sign); latents are
packed in squares of 2x2 into 64 tokens, as FLUX does. Where FLUX has T5 and the pooled CLIP it has this world's CLIP.
"""

from __future__ import annotations

import argparse

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch import Tensor, nn

from common import DATA, DEVICE, WEIGHTS, autocast, save_half, save_sheet, step_generator, train
from students import BATCH, SHAPE, load_world
from teacher import PROMPTS, decode
from text import MAX_LENGTH, WIDTH, tokenize

SEED = 15
STEPS = 4


def build() -> FluxTransformer2DModel:
    """1.5 million parameters."""
    return FluxTransformer2DModel(
        in_channels=4 * SHAPE[0],
        num_layers=1,
        num_single_layers=3,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(8, 12, 12),
    )


def pack(z: Tensor) -> Tensor:
    """(B, C, H, W) -> tokens (B, H/2 W/2, 4 C)."""
    b, c, h, w = z.shape
    return z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpack(tokens: Tensor) -> Tensor:
    """Undo `pack`."""
    c, h, w = SHAPE
    return tokens.view(-1, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, c, h, w)


def pool(text: Tensor, ids: Tensor, end: int) -> Tensor:
    """Hidden state at the first end-of-text token: CLIP's pooled output."""
    return text[torch.arange(len(text), device=text.device), (ids == end).int().argmax(1)]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30_000)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    world = load_world()
    paths = world.paths()
    end = world.tokenizer.eos_token_id
    network = build().to(DEVICE)
    rows, columns = torch.meshgrid(*(torch.arange(side // 2, device=DEVICE) for side in SHAPE[1:]), indexing="ij")
    places = torch.stack([torch.zeros_like(rows), rows, columns], -1).view(-1, 3).float()
    no_places = torch.zeros(MAX_LENGTH, 3, device=DEVICE)

    def predict(network: nn.Module, z: Tensor, s: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        with autocast():
            return unpack(network(pack(z), text, pooled, s, places, no_places).sample.float())

    def draw(step: int) -> tuple[Tensor, ...]:
        generator, chosen, text = paths.pick(SEED, step)
        offset, start = torch.rand(2, BATCH, generator=generator, device=DEVICE)
        s = (torch.arange(BATCH, device=DEVICE) + offset) / BATCH  # stratified
        s = s.where(start > 0.15, 1.0)  # every sampler starts at 1
        return paths.at(chosen, 0), paths.at(chosen, -1), s, text, pool(text, paths.ids[chosen], end)

    def loss(n: Tensor, x: Tensor, s: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        share = s.view(-1, 1, 1, 1)
        v = predict(network, (1 - share) * x + share * n, s, text, pooled)
        return (v - (n - x)).square().mean()

    @torch.no_grad()
    def report(averaged: dict[str, nn.Module], step: int) -> str:
        ids = tokenize(world.tokenizer, list(PROMPTS) * 12)
        text = world.encode(ids)
        z = torch.randn(len(ids), *SHAPE, generator=step_generator(3, 1 << 20), device=DEVICE)
        for k in range(STEPS, 0, -1):
            s = torch.full((len(z),), k / STEPS, device=DEVICE)
            z = z - predict(averaged["network"], z, s, text, pool(text, ids, end)) / STEPS
        return save_sheet(decode(world.vae, z), DATA / "sheets" / f"flux-{step}.png", 12)

    averaged = train(
        "flux",
        {"network": network},
        loss,
        draw=draw,
        record=False,  # its matrix products cannot be recorded
        steps=steps,
        learning_rate=1.5e-3,
        warmup=500,
        ema=0.999,
        report=report,
        report_every=2000,
    )
    save_half(averaged["network"], WEIGHTS / "flux" / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=1.0).save_pretrained(WEIGHTS / "flux" / "scheduler")


if __name__ == "__main__":
    main()
