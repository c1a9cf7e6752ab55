"""Distils a few-step student at the turbo time steps from the teacher, with a discriminator, as a LoRA.

    python tools/avatars/turbo.py

From each of the time steps 999, 749, 499 and 249 the student's clean prediction is drawn to the end of the teacher's
guided path and, by a discriminator on the frozen teacher's features of the prediction noised again, to what real
portraits look like (adversarial diffusion distillation: Sauer et al., 2023 and, in latents, 2024).
"""

from __future__ import annotations

import argparse
import functools

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from common import DEVICE, autocast, train
from guideflow_diffusers.turbo import turbo_schedule
from students import BATCH, INDICES, alpha_bar_at, hinge, load_world, pseudo_huber, student_of

SEED = 13
RANK = 16
TIMES = (999, 749, 499, 249)
ADVERSARIAL = 0.02


def features(unet: UNet2DConditionModel, z: Tensor, t: Tensor, text: Tensor) -> list[Tensor]:
    """Hidden states of the downward half."""
    with autocast():
        time = unet.time_embedding(unet.time_proj(t))
        h = unet.conv_in(z)
        found = []
        for block in unet.down_blocks:
            arguments = {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}
            h, states = block(hidden_states=h, temb=time, **arguments)
            found += states
        found.append(unet.mid_block(h, time, encoder_hidden_states=text))
    return [f.float() for f in found[1:]]


class Heads(nn.Module):
    """One small convolutional judge per feature map."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.judges = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(8, width),
                nn.Conv2d(width, 64, 1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(64, 64, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(64, 1, 1),
            )
            for width in widths
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Verdicts of all places of all maps, (B, n): positive for real."""
        return torch.cat([judge(f).flatten(1) for judge, f in zip(self.judges, maps, strict=True)], 1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    world = load_world()
    paths = world.paths()
    network, student = student_of(world, RANK, SEED)
    with torch.no_grad():
        shapes = features(
            world.teacher, paths.at(torch.tensor([0]), 0), torch.tensor([999], device=DEVICE), world.empty
        )
    heads = Heads([f.shape[1] for f in shapes]).to(DEVICE)
    visit = torch.arange(BATCH, device=DEVICE) % len(TIMES)
    times = torch.tensor(TIMES, device=DEVICE)[visit]
    a = alpha_bar_at(times)

    def draw(step: int) -> tuple[Tensor, ...]:
        generator, rows, text = paths.pick(SEED, step)
        # Steps lead along straight lines from the noise to what the student takes for the clean latent; half of the
        # states are on those lines, the others on the teacher's path.
        noise, clean = paths.at(rows, 0), paths.at(rows, -1)
        straight = a.sqrt() * clean.where(visit.view(-1, 1, 1, 1) > 0, 0) + (1 - a).sqrt() * noise
        curved = paths.at(rows, len(INDICES) // len(TIMES) * visit)
        side = torch.rand(BATCH, 1, 1, 1, generator=generator, device=DEVICE) < 0.5
        t = torch.randint(700, (BATCH,), generator=generator, device=DEVICE)
        fresh = torch.randn(noise.shape, generator=generator, device=DEVICE)
        pressure = torch.full((), ADVERSARIAL * min(1, step / 300), device=DEVICE)
        z = straight.where(side | (visit.view(-1, 1, 1, 1) == 0), curved)
        return z, clean, text, t, fresh, pressure

    def loss(z: Tensor, wanted: Tensor, text: Tensor, t: Tensor, noise: Tensor, pressure: Tensor) -> Tensor:
        clean = (z - (1 - a).sqrt() * student.predict(network, z, times, text)) / a.sqrt()
        # Both sides are noised alike before they are judged.
        b = alpha_bar_at(t)
        made, real = (features(world.teacher, b.sqrt() * v + (1 - b).sqrt() * noise, t, text) for v in (clean, wanted))
        frozen = {name: value.detach() for name, value in heads.named_parameters()}
        adversarial = -torch.func.functional_call(heads, frozen, (made,)).mean()
        judged = hinge(heads([f.detach() for f in real]), heads([f.detach() for f in made]))
        return pseudo_huber(clean - wanted) + pressure * adversarial + judged

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        predict = functools.partial(averaged["lora"].predict, network)
        return world.draw_grid(f"turbo-{step}", predict, turbo_schedule(len(TIMES)))

    averaged = train(
        "turbo",
        {"lora": student, "heads": heads},
        loss,
        draw=draw,
        steps=steps,
        learning_rate=1.5e-3,
        ema=0.995,
        report=report,
        report_every=1000,
    )
    averaged["lora"].save("turbo")


if __name__ == "__main__":
    main()
