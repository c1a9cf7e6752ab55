"""Distils a phased consistency model from the teacher, as a LoRA: 4 phases, one step each (Wang et al., 2024).

    python tools/avatars/pcm.py

Wherever on the teacher's guided DDIM path the student stands, its one DDIM jump to the end of the phase must land at
the same point. Consistency training draws what it says at t_n to what it says at t_{n-1}, one teacher step further,
because nobody knows that point; here whole paths are ready, so every jump is drawn to the point itself.
"""

from __future__ import annotations

import argparse
import functools

import torch
from torch import Tensor, nn

from common import DEVICE, train
from guideflow_diffusers.pcm import pcm_schedule
from students import BATCH, INDICES, alpha_bar_at, load_world, pseudo_huber, student_of
from teacher import ddim

SEED = 12
RANK = 16
PHASES = 4


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    world = load_world()
    paths = world.paths()
    network, student = student_of(world, RANK, SEED)
    indices = torch.tensor(INDICES, device=DEVICE)
    pieces = len(INDICES) // PHASES
    phase = torch.arange(BATCH, device=DEVICE) % PHASES

    def draw(step: int) -> tuple[Tensor, ...]:
        generator, rows, text = paths.pick(SEED, step)
        # Half of the points begin a phase: the only ones that as many steps as phases visit.
        piece = torch.randint(pieces, (BATCH,), generator=generator, device=DEVICE)
        piece = piece * torch.randint(2, (BATCH,), generator=generator, device=DEVICE)
        place, end = pieces * phase + piece, pieces * (phase + 1)
        return paths.at(rows, place), paths.at(rows, end), indices[place], indices[end], text

    def loss(z: Tensor, wanted: Tensor, now: Tensor, end: Tensor, text: Tensor) -> Tensor:
        landed = ddim(z, student.predict(network, z, now, text), alpha_bar_at(now), alpha_bar_at(end))
        return pseudo_huber(landed - wanted)

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        predict = functools.partial(averaged["lora"].predict, network)
        return world.draw_grid(f"pcm-{step}", predict, pcm_schedule(PHASES))

    averaged = train(
        "pcm",
        {"lora": student},
        loss,
        draw=draw,
        steps=steps,
        learning_rate=2e-3,
        ema=0.995,
        report=report,
        report_every=1000,
    )
    averaged["lora"].save("pcm")


if __name__ == "__main__":
    main()
