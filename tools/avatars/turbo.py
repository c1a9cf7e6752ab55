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

from common import DEVICE, autocast, step_generator, train
from guideflow_diffusers.turbo import turbo_schedule
from students import BATCH, alpha_bar_at, hinge, load_world, pseudo_huber, student_of
from teacher import ALPHA_BAR

SEED = 13
TIMES = (999, 749, 499, 249)
SUBSTEPS = 4  # of the teacher's path from the later three; the first has ready pairs
RANK = 24
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
    parser.add_argument("--steps", type=int, default=2500)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    world = load_world()
    noises, samples, ids = world.teacher_pairs()
    network, student = student_of(world, RANK, SEED)
    with torch.no_grad():
        shapes = features(world.teacher, noises[:1], torch.tensor([999], device=DEVICE), world.empty)
    heads = Heads([f.shape[1] for f in shapes]).to(DEVICE)
    quarter = BATCH // len(TIMES)
    times = torch.tensor(TIMES, device=DEVICE).repeat_interleave(quarter)
    later = times[quarter:]
    a = alpha_bar_at(times)

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(SEED, step)
        # From pure noise the ends are known; from later time steps, noised portraits, the teacher's path leads there.
        first = torch.randint(len(noises), (quarter,), generator=generator, device=DEVICE)
        x, text = world.draw(BATCH, generator)
        text = torch.cat([world.encode(ids[first]), text[quarter:]])
        z = a.sqrt() * x + (1 - a).sqrt() * torch.randn(x.shape, generator=generator, device=DEVICE)
        z = torch.cat([noises[first] * (1 - ALPHA_BAR[999]).sqrt(), z[quarter:]])
        ends = world.teacher_path(z[quarter:], later, torch.zeros_like(later), SUBSTEPS, text[quarter:])
        wanted = torch.cat([samples[first], ends])
        clean = (z - (1 - a).sqrt() * student.predict(network, z, times, text)) / a.sqrt()
        # Both sides are noised alike before they are judged.
        t = torch.randint(700, (BATCH,), generator=generator, device=DEVICE)
        noise = torch.randn(x.shape, generator=generator, device=DEVICE)
        b = alpha_bar_at(t)
        made, real = (features(world.teacher, b.sqrt() * v + (1 - b).sqrt() * noise, t, text) for v in (clean, wanted))
        frozen = {name: value.detach() for name, value in heads.named_parameters()}
        adversarial = -torch.func.functional_call(heads, frozen, (made,)).mean()
        judged = hinge(heads([f.detach() for f in real]), heads([f.detach() for f in made]))
        return pseudo_huber(clean - wanted) + ADVERSARIAL * min(1, step / 200) * adversarial + judged

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        predict = functools.partial(averaged["lora"].predict, network)
        return world.draw_grid(f"turbo-{step}", predict, turbo_schedule(len(TIMES)))

    averaged = train(
        "turbo",
        {"lora": student, "heads": heads},
        loss_of_step,
        steps=steps,
        learning_rate=1.5e-3,
        ema=0.995,
        report=report,
        report_every=1000,
    )
    averaged["lora"].save("turbo")


if __name__ == "__main__":
    main()
