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
from common import DEVICE, STEPS, autocast, step_generator, train
from guideflow_diffusers.rectified_flow import rectified_flow_schedule
from students import BATCH, PART, SHAPE, load_world, pseudo_huber, sample, student_of
from text import WORDINGS, load_caption_ids

SEED = 11
LOOKED_AT = BATCH // 4  # of a batch: decoded and compared as pictures
PAIRS = min(40_000 if DEVICE.type == "cuda" else 8_000, PART * STEPS)
FLOW_STEPS = 6 if DEVICE.type == "cuda" else 4


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    world = load_world()
    network, student = student_of(world, rectified_flow.RANK, rectified_flow.SEED, turn=rectified_flow.TURN)
    student.load("rectified-flow")
    flow = functools.partial(copy.deepcopy(student).requires_grad_(False).predict, network)
    caption_ids = load_caption_ids(world.tokenizer)
    texts, noises, ends = [], [], []
    size = min(PART, 1000)
    for batch in range(max(1, PAIRS // size)):
        generator = step_generator(SEED, (1 << 20) + batch)
        rows = torch.randint(len(caption_ids), (size,), generator=generator, device=DEVICE)
        wording = torch.randint(WORDINGS, (size,), generator=generator, device=DEVICE)
        texts.append(world.encode(caption_ids[rows, wording]))
        noises.append(torch.randn(size, *SHAPE, generator=generator, device=DEVICE))
        ends.append(sample(flow, rectified_flow_schedule(FLOW_STEPS), texts[-1], noises[-1]))
    texts, noises, ends = map(torch.cat, (texts, noises, ends))
    vae = world.vae.to(memory_format=torch.channels_last)

    def decode(z: Tensor) -> Tensor:
        with autocast():
            z = z.contiguous(memory_format=torch.channels_last) / vae.config.scaling_factor
            return vae.decode(z).sample.float().clamp(-1, 1)

    def draw(step: int) -> tuple[Tensor, ...]:
        rows = torch.randint(len(texts), (BATCH,), generator=step_generator(SEED, step), device=DEVICE)
        return ends[rows], noises[rows], texts[rows]

    def loss(x: Tensor, n: Tensor, text: Tensor) -> Tensor:
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
        loss,
        draw=draw,
        steps=steps,
        learning_rate=1e-3,
        ema=0.995,
        report=report,
        report_every=1000,
    )
    averaged["lora"].save("instaflow")


if __name__ == "__main__":
    main()
