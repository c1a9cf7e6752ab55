"""Distils the PeRFlow student from the teacher: `diff_eps`, 4 windows, one step each (Yan et al., 2024).

    python tools/avatars/perflow.py

In a window [t_e, t_s] of the noise schedule, z_s is noised data and z_e the end of the teacher's guided DDIM path from
z_s. The student sees points of the straight line between them and predicts the epsilon that joins the ends,
z_s = g z_e + sqrt(1 - g^2) epsilon, g^2 = alpha_bar_s / alpha_bar_e. Classifier-free guidance is distilled in, so
sampling needs one network call a step.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from common import WEIGHTS, save_half, step_generator, train
from guideflow_diffusers.perflow import perflow_schedule
from students import alpha_bar_at, load_world, predict, student_of

SEED = 4
BATCH = 64
WINDOWS = 4
SUBSTEPS = 4
FOLDER = WEIGHTS / "perflow"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=800)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    world = load_world()
    student = student_of(world.teacher)

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(SEED, step)
        x, text = world.draw(BATCH, generator)
        start = 1000 - 250 * (torch.arange(BATCH) % WINDOWS)
        end = start - 250
        first, last = start - 1, (end - 1).clamp(min=0)  # PeRFlow counts time from 1
        a_s, a_e = alpha_bar_at(first), alpha_bar_at(last)
        z_s = a_s.sqrt() * x + (1 - a_s).sqrt() * torch.randn(x.shape, generator=generator)
        z_e = world.teacher_path(z_s, first, last, SUBSTEPS, text)
        gamma = (a_s / a_e).sqrt()
        target = (z_s - gamma * z_e) / (1 - gamma**2).sqrt()
        # Half of the points are window starts: the only ones that four steps visit.
        fraction = torch.rand(BATCH, generator=generator) * (torch.rand(BATCH, generator=generator) < 0.5)
        t = start - (250 * fraction).long()
        z = z_s + ((start - t) / 250).view(-1, 1, 1, 1) * (z_e - z_s)
        # Error of the window's end point, as if all windows amplified epsilon alike in the square root.
        weight = (1 - gamma**2).sqrt() / gamma
        return (weight * (predict(student, z, t, text) - target).square()).mean()

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        return world.draw_grid(f"perflow-{step}", averaged["unet"], perflow_schedule())

    averaged = train(
        "perflow",
        {"unet": student},
        loss_of_step,
        steps=steps,
        learning_rate=4e-4,
        ema=0.995,
        report=report,
        report_every=400,
    )
    save_half(averaged["unet"].to(memory_format=torch.contiguous_format), FOLDER / "unet")


if __name__ == "__main__":
    main()
