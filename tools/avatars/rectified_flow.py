"""Reflow: trains the 2-rectified flow, a LoRA, on pairs of noise and the teacher's samples (Liu et al., 2023).

    python tools/avatars/rectified_flow.py

The pairs (n, x) are the ends of the teacher's guided trajectories. On the straight line z = (1 - s) x + s n the student
predicts the velocity x - n; its time is 1000 s. Guidance by prompt is distilled in with the pairs.
"""

from __future__ import annotations

import argparse
import functools

import torch
from torch import Tensor, nn

from common import DEVICE, train
from guideflow_diffusers.rectified_flow import rectified_flow_schedule
from students import BATCH, load_world, student_of

SEED = 10
RANK = 24
TURN = ("conv_out",)  # velocity is the clean latent minus the noise: it begins with minus the teacher's epsilon


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8000)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    world = load_world()
    paths = world.paths()
    network, student = student_of(world, RANK, SEED, turn=TURN)

    def draw(step: int) -> tuple[Tensor, ...]:
        generator, rows, text = paths.pick(SEED, step)
        offset, start = torch.rand(2, BATCH, generator=generator, device=DEVICE)
        s = (torch.arange(BATCH, device=DEVICE) + offset) / BATCH  # stratified
        return paths.at(rows, 0), paths.at(rows, -1), s.where(start > 0.15, 1.0), text  # every sampler starts at 1

    def loss(n: Tensor, x: Tensor, s: Tensor, text: Tensor) -> Tensor:
        share = s.view(-1, 1, 1, 1)
        v = student.predict(network, (1 - share) * x + share * n, 1000 * s, text)
        return (v - (x - n)).square().mean()

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        predict = functools.partial(averaged["lora"].predict, network)
        return world.draw_grid(f"rectified-flow-{step}", predict, rectified_flow_schedule(4))

    averaged = train(
        "rectified-flow",
        {"lora": student},
        loss,
        draw=draw,
        steps=steps,
        learning_rate=2e-3,
        ema=0.998,
        report=report,
        report_every=1000,
    )
    averaged["lora"].save("rectified-flow")


if __name__ == "__main__":
    main()
