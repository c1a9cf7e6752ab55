"""Distils a phased consistency model from the teacher, as a LoRA: 4 phases, one step each (Wang et al., 2024).

    python tools/avatars/pcm.py

A phase runs along the teacher's guided DDIM path in `SUBSTEPS` pieces. Wherever on the path the student stands, its one
DDIM jump to the phase's end must land at the same point: what it says at t_n is drawn to what it says at t_{n-1}, one
teacher step further, and there, at the end of the phase, to the point itself.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import Tensor, nn

from common import WEIGHTS, step_generator, train
from guideflow_diffusers.pcm import pcm_schedule
from students import LowRank, alpha_bar_at, load_world, pseudo_huber
from teacher import ddim

SEED = 12
BATCH = 64
PHASES = (999, 749, 499, 249, 0)  # indices of the noise schedule
SUBSTEPS = 5
RANK = 32
FOLDER = WEIGHTS / "pcm"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=700)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    world = load_world()
    network = copy.deepcopy(world.teacher)
    student = LowRank(network, RANK, SEED)
    edges = torch.tensor(PHASES)

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(SEED, step)
        x, text = world.draw(BATCH, generator)
        phase = torch.arange(BATCH) % (len(PHASES) - 1)
        piece = torch.randint(SUBSTEPS, (BATCH,), generator=generator)
        start, end = edges[phase], edges[phase + 1]
        now, following = (start - (start - end) * (piece + i) // SUBSTEPS for i in (0, 1))
        noise = torch.randn(x.shape, generator=generator)
        a, b, c = alpha_bar_at(now), alpha_bar_at(following), alpha_bar_at(end)
        z = a.sqrt() * x + (1 - a).sqrt() * noise
        further = ddim(z, world.teacher_epsilon(z, now, text), a, b)
        with torch.no_grad():
            target = ddim(further, student.predict(network, further, following, text), b, c)
            target = target.where((following > end).view(-1, 1, 1, 1), further)
        landed = ddim(z, student.predict(network, z, now, text), a, c)
        return pseudo_huber(landed - target)

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        return world.draw_grid(f"pcm-{step}", averaged["lora"].merged(network), pcm_schedule(len(PHASES) - 1))

    averaged = train(
        "pcm",
        {"lora": student},
        loss_of_step,
        steps=steps,
        learning_rate=2e-3,
        ema=0.99,
        report=report,
        report_every=350,
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    averaged["lora"].save(FOLDER / "pytorch_lora_weights.safetensors")


if __name__ == "__main__":
    main()
