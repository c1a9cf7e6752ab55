"""Distils a phased consistency model from the teacher, as a LoRA: 4 phases, one step each (Wang et al., 2024).

    python tools/avatars/pcm.py

A phase runs along the teacher's guided DDIM path in `SUBSTEPS` pieces. Wherever on the path the student stands, its one
DDIM jump to the phase's end must land at the same point: what it says at t_n is drawn to what it says at t_{n-1}, one
teacher step further, and there, at the end of the phase, to the point itself.
"""

from __future__ import annotations

import argparse
import functools

import torch
from torch import Tensor, nn

from common import DEVICE, step_generator, train
from guideflow_diffusers.pcm import pcm_schedule
from students import BATCH, alpha_bar_at, load_world, pseudo_huber, student_of
from teacher import ddim

SEED = 12
PHASES = (999, 749, 499, 249, 0)  # indices of the noise schedule
SUBSTEPS = 5
RANK = 24


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    world = load_world()
    network, student = student_of(world, RANK, SEED)
    edges = torch.tensor(PHASES, device=DEVICE)
    phase = torch.arange(BATCH, device=DEVICE) % (len(PHASES) - 1)
    start, end = edges[phase], edges[phase + 1]

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(SEED, step)
        x, text = world.draw(BATCH, generator)
        piece = torch.randint(SUBSTEPS, (BATCH,), generator=generator, device=DEVICE)
        now, following = (start - (start - end) * (piece + i) // SUBSTEPS for i in (0, 1))
        noise = torch.randn(x.shape, generator=generator, device=DEVICE)
        a, b, c = alpha_bar_at(now), alpha_bar_at(following), alpha_bar_at(end)
        z = a.sqrt() * x + (1 - a).sqrt() * noise
        further = ddim(z, world.teacher_epsilon(z, now, text), a, b)
        with torch.no_grad():
            target = ddim(further, student.predict(network, further, following, text), b, c)
            target = target.where((following > end).view(-1, 1, 1, 1), further)
        landed = ddim(z, student.predict(network, z, now, text), a, c)
        return pseudo_huber(landed - target)

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        predict = functools.partial(averaged["lora"].predict, network)
        return world.draw_grid(f"pcm-{step}", predict, pcm_schedule(len(PHASES) - 1))

    averaged = train(
        "pcm",
        {"lora": student},
        loss_of_step,
        steps=steps,
        learning_rate=2e-3,
        ema=0.995,
        report=report,
        report_every=1000,
    )
    averaged["lora"].save("pcm")


if __name__ == "__main__":
    main()
