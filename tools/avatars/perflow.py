"""Distils the PeRFlow student from the teacher, as a LoRA: `diff_eps`, 4 windows, one step each (Yan et al., 2024).

    python tools/avatars/perflow.py

In a window [t_e, t_s] of the noise schedule, z_s is noised data and z_e the end of the teacher's guided DDIM path from
z_s. The student sees points of the straight line between them and predicts the epsilon that joins the ends,
z_s = g z_e + sqrt(1 - g^2) epsilon, g^2 = alpha_bar_s / alpha_bar_e. Classifier-free guidance is distilled in, so
sampling needs one network call a step.
"""

from __future__ import annotations

import argparse
import functools

import torch
from torch import Tensor, nn

from common import DEVICE, step_generator, train
from guideflow_diffusers.perflow import perflow_schedule
from students import BATCH, alpha_bar_at, load_world, student_of

SEED = 4
WINDOWS = 4
SUBSTEPS = 4
RANK = 24


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    world = load_world()
    network, student = student_of(world, RANK, SEED)
    start = 1000 - 250 * (torch.arange(BATCH, device=DEVICE) % WINDOWS)
    end = start - 250
    first, last = start - 1, (end - 1).clamp(min=0)  # PeRFlow counts time from 1
    a_s, a_e = alpha_bar_at(first), alpha_bar_at(last)
    gamma = (a_s / a_e).sqrt()
    # Error of the window's end point, as if all windows amplified epsilon alike in the square root.
    weight = (1 - gamma**2).sqrt() / gamma

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(SEED, step)
        x, text = world.draw(BATCH, generator)
        z_s = a_s.sqrt() * x + (1 - a_s).sqrt() * torch.randn(x.shape, generator=generator, device=DEVICE)
        z_e = world.teacher_path(z_s, first, last, SUBSTEPS, text)
        target = (z_s - gamma * z_e) / (1 - gamma**2).sqrt()
        # Half of the points are window starts: the only ones that four steps visit.
        one, other = torch.rand(2, BATCH, generator=generator, device=DEVICE)
        t = start - (250 * one * (other < 0.5)).long()
        z = z_s + ((start - t) / 250).view(-1, 1, 1, 1) * (z_e - z_s)
        return (weight * (student.predict(network, z, t, text) - target).square()).mean()

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        predict = functools.partial(averaged["lora"].predict, network)
        return world.draw_grid(f"perflow-{step}", predict, perflow_schedule())

    averaged = train(
        "perflow",
        {"lora": student},
        loss_of_step,
        steps=steps,
        learning_rate=1.5e-3,
        ema=0.995,
        report=report,
        report_every=1000,
    )
    averaged["lora"].save("perflow")


if __name__ == "__main__":
    main()
