"""Distils the PeRFlow student from the teacher, as a LoRA: `diff_eps`, 4 windows, one step each (Yan et al., 2024).

    python tools/avatars/perflow.py

In a window [t_e, t_s] of the noise schedule, z_s and z_e are where the teacher's guided DDIM path enters and leaves it.
The student sees points of the straight line between them and predicts the epsilon that joins the ends,
z_s = g z_e + sqrt(1 - g^2) epsilon, g^2 = alpha_bar_s / alpha_bar_e. Guidance by prompt is distilled in, so sampling
needs one network call a step.
"""

from __future__ import annotations

import argparse
import functools

import torch
from torch import Tensor, nn

from common import DEVICE, train
from guideflow_diffusers.perflow import perflow_schedule
from students import BATCH, INDICES, alpha_bar_at, load_world, student_of

SEED = 4
RANK = 20
WINDOWS = 4


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    world = load_world()
    paths = world.paths()
    network, student = student_of(world, RANK, SEED)
    window = torch.arange(BATCH, device=DEVICE) % WINDOWS
    places = len(INDICES) // WINDOWS
    start = 1000 - 250 * window  # PeRFlow counts time from 1
    a_s, a_e = (alpha_bar_at(torch.tensor(INDICES, device=DEVICE)[places * w]) for w in (window, window + 1))
    gamma = (a_s / a_e).sqrt()
    # Error of the window's end point, as if all windows amplified epsilon alike in the square root.
    weight = (1 - gamma**2).sqrt() / gamma

    def draw(step: int) -> tuple[Tensor, ...]:
        generator, rows, text = paths.pick(SEED, step)
        # Half of the points are window starts: the only ones that four steps visit.
        one, other = torch.rand(2, BATCH, generator=generator, device=DEVICE)
        t = start - (250 * one * (other < 0.5)).long()
        return paths.at(rows, places * window), paths.at(rows, places * (window + 1)), t, text

    def loss(z_s: Tensor, z_e: Tensor, t: Tensor, text: Tensor) -> Tensor:
        target = (z_s - gamma * z_e) / (1 - gamma**2).sqrt()
        z = z_s + ((start - t) / 250).view(-1, 1, 1, 1) * (z_e - z_s)
        return (weight * (student.predict(network, z, t, text) - target).square()).mean()

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        predict = functools.partial(averaged["lora"].predict, network)
        return world.draw_grid(f"perflow-{step}", predict, perflow_schedule())

    averaged = train(
        "perflow",
        {"lora": student},
        loss,
        draw=draw,
        steps=steps,
        learning_rate=1.5e-3,
        ema=0.995,
        report=report,
        report_every=1000,
    )
    averaged["lora"].save("perflow")


if __name__ == "__main__":
    main()
