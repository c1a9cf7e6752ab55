"""Distils the 2-rectified flow into one step, as a LoRA that goes on from the flow's: InstaFlow (Liu et al., 2023).

    python tools/avatars/instaflow.py

The student's n + v(n, 1000) meets the end of the 2-rectified flow's own trajectory from n: in latents by a pseudo-Huber
distance and, as the paper does with LPIPS, in features of the decoded picture.
"""

from __future__ import annotations

import argparse
import copy
import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rectified_flow
from common import DATA, DEVICE, autocast, step_generator, train
from guideflow_diffusers.rectified_flow import rectified_flow_schedule
from students import BATCH, load_world, pseudo_huber, sample, student_of

SEED = 11
LOOKED_AT = BATCH // 4  # of a batch: decoded and compared as pictures
PAIRS = 24_000
FLOW_STEPS = 6


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    world = load_world()
    network, student = student_of(world, rectified_flow.RANK, rectified_flow.SEED)
    trained = torch.load(DATA / "rectified-flow.pt", weights_only=True, map_location=DEVICE)
    student.load_state_dict(trained["averaged"]["lora"])
    flow = functools.partial(copy.deepcopy(student).requires_grad_(False).predict, network)
    ids, noises, ends = [], [], []
    for batch in range(PAIRS // 1000):
        generator = step_generator(SEED, (1 << 20) + batch)
        ids.append(world.pick(1000, generator)[1])
        noises.append(torch.randn(1000, *world.latents.shape[1:], generator=generator, device=DEVICE))
        ends.append(sample(flow, rectified_flow_schedule(FLOW_STEPS), world.encode(ids[-1]), noises[-1]))
    ids, noises, ends = map(torch.cat, (ids, noises, ends))
    vae = world.vae.to(memory_format=torch.channels_last)

    def decode(z: Tensor) -> Tensor:
        with autocast():
            z = z.contiguous(memory_format=torch.channels_last) / vae.config.scaling_factor
            return vae.decode(z).sample.float().clamp(-1, 1)

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(SEED, step)
        rows = torch.randint(len(ids), (BATCH,), generator=generator, device=DEVICE)
        x, n, text = ends[rows], noises[rows], world.encode(ids[rows])
        y = n + student.predict(network, n, torch.full((BATCH,), 1000.0, device=DEVICE), text)
        with torch.no_grad():
            wanted = decode(x[:LOOKED_AT])
        difference = decode(y[:LOOKED_AT]) - wanted
        picture = sum(F.avg_pool2d(difference, size).abs().mean() for size in (1, 2, 4, 8))
        return pseudo_huber(y - x) + 0.5 * picture

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        predict = functools.partial(averaged["lora"].predict, network)
        return world.draw_grid(f"instaflow-{step}", predict, rectified_flow_schedule(1))

    averaged = train(
        "instaflow",
        {"lora": student},
        loss_of_step,
        steps=steps,
        learning_rate=1.5e-3,
        ema=0.998,
        report=report,
        report_every=1000,
    )
    averaged["lora"].save("instaflow")


if __name__ == "__main__":
    main()
