"""Reflow: trains the 2-rectified flow, a LoRA, on pairs of noise and the teacher's samples (Liu et al., 2023).

    python tools/avatars/rectified_flow.py

The pairs (n, x) are the ends of the teacher's guided trajectories. On the straight line z = (1 - s) x + s n the student
predicts the velocity x - n; its time is 1000 s. Classifier-free guidance is distilled in with the pairs.
"""

from __future__ import annotations

import argparse
import functools

import torch
from torch import Tensor, nn

from common import DEVICE, step_generator, train
from guideflow_diffusers.rectified_flow import rectified_flow_schedule
from students import BATCH, load_world, student_of

SEED = 10
RANK = 48  # from noise to velocity is further than from the teacher to another student of epsilon


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    world = load_world()
    noises, samples, ids = world.teacher_pairs()
    network, student = student_of(world, RANK, SEED)

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(SEED, step)
        chosen = torch.randint(len(noises), (BATCH,), generator=generator, device=DEVICE)
        n, x, text = noises[chosen], samples[chosen], world.encode(ids[chosen])
        offset, start = torch.rand(2, BATCH, 1, 1, 1, generator=generator, device=DEVICE)
        s = (torch.arange(BATCH, device=DEVICE).view(-1, 1, 1, 1) + offset) / BATCH  # stratified
        s = s.where(start > 0.15, 1.0)  # the start counts in every sampler
        v = student.predict(network, (1 - s) * x + s * n, 1000 * s.flatten(), text)
        return (v - (x - n)).square().mean()

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        predict = functools.partial(averaged["lora"].predict, network)
        return world.draw_grid(f"rectified-flow-{step}", predict, rectified_flow_schedule(4))

    averaged = train(
        "rectified-flow",
        {"lora": student},
        loss_of_step,
        steps=steps,
        learning_rate=2e-3,
        ema=0.998,
        report=report,
        report_every=1000,
    )
    averaged["lora"].save("rectified-flow")


if __name__ == "__main__":
    main()
