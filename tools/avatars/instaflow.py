"""Distils the 2-rectified flow into one step: InstaFlow (Liu et al., 2023).

    python tools/avatars/instaflow.py

The student's n + v(n, 1000) meets the end of the 2-rectified flow's own trajectory from n: in latents by a pseudo-Huber
distance and, as the paper does with LPIPS, in features of the decoded picture.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from common import DATA, WEIGHTS, save_half, step_generator, train
from guideflow_diffusers.rectified_flow import rectified_flow_schedule
from rectified_flow import FOLDER as RECTIFIED_FLOW
from students import load_unet, load_world, predict, pseudo_huber, sample, student_of

SEED = 11
BATCH = 64
LOOKED_AT = 12  # of a batch: decoded and compared as pictures
PAIRS = 16_000
FLOW_STEPS = 6
FOLDER = WEIGHTS / "instaflow"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    world = load_world()
    flow = load_unet(RECTIFIED_FLOW / "unet").to(memory_format=torch.channels_last)
    student = student_of(flow)
    decode = world.vae.to(memory_format=torch.channels_last).decode
    path = DATA / "pairs-rectified-flow.pt"
    if not path.exists():
        ends = []
        for batch in range(PAIRS // 128):
            _, noise, text = pair_inputs(world, batch)
            ends.append(sample(flow, rectified_flow_schedule(FLOW_STEPS), text, noise))
        torch.save(torch.cat(ends).view(-1, 128, *world.latents.shape[1:]), path)
        print("pairs drawn", flush=True)
    ends = torch.load(path, weights_only=True)

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(SEED, step)
        batch = int(torch.randint(len(ends), (1,), generator=generator))
        rows = torch.randperm(128, generator=generator)[:BATCH]
        ids, noise, _ = pair_inputs(world, batch, encode=False)
        x, n = ends[batch][rows], noise[rows]
        y = n + predict(student, n, torch.full((BATCH,), 1000.0), world.encode(ids[rows]))
        with torch.autocast("cpu", torch.bfloat16):
            seen, wanted = (
                decode(z[:LOOKED_AT].contiguous(memory_format=torch.channels_last) / world.vae.config.scaling_factor)
                .sample.float()
                .clamp(-1, 1)
                for z in (y, x)
            )
        picture = sum((torch.nn.functional.avg_pool2d(seen - wanted, size)).abs().mean() for size in (1, 2, 4))
        return pseudo_huber(y - x) + 0.5 * picture

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        return world.draw_grid(f"instaflow-{step}", averaged["unet"], rectified_flow_schedule(1))

    averaged = train(
        "instaflow",
        {"unet": student},
        loss_of_step,
        steps=steps,
        learning_rate=5e-4,
        ema=0.997,
        report=report,
        report_every=500,
    )
    save_half(averaged["unet"].to(memory_format=torch.contiguous_format), FOLDER / "unet")


def pair_inputs(world: object, batch: int, *, encode: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    """Token ids, noise and encoded text of a batch of pairs: they depend on its number alone."""
    generator = step_generator(SEED, -1 - batch)
    _, ids = world.pick(128, generator)
    noise = torch.randn(128, *world.latents.shape[1:], generator=generator)
    return ids, noise, world.encode(ids) if encode else None


if __name__ == "__main__":
    main()
