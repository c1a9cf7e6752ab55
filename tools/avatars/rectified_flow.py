"""Reflow: trains the 2-rectified flow on pairs of noise and the teacher's samples (Liu et al., 2023).

    python tools/avatars/rectified_flow.py

The pairs (n, x) are the ends of the teacher's guided trajectories. On the straight line z = (1 - s) x + s n the student
predicts the velocity x - n; its time is 1000 s. Classifier-free guidance is distilled in with the pairs.
"""

from __future__ import annotations

import argparse
import time

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor, nn

from common import DATA, WEIGHTS, save_half, step_generator, train
from guideflow_diffusers.rectified_flow import rectified_flow_schedule
from students import World, load_world, predict, student_of

SEED = 10
BATCH = 64
PAIRS = 12_000
TEACHER_STEPS = 12  # second order
FOLDER = WEIGHTS / "rectified-flow"


@torch.no_grad()
def teacher_pairs(world: World) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, sample and token ids; cached on disk every few batches, so an interrupted run goes on."""
    path = DATA / "pairs-teacher.pt"
    done = torch.load(path, weights_only=True) if path.exists() else {"noise": [], "sample": [], "ids": []}
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    started = time.perf_counter()
    for batch in range(len(done["noise"]), -(-PAIRS // 128)):
        generator = step_generator(SEED, -1 - batch)
        _, ids = world.pick(128, generator)
        text = world.encode(ids)
        noise = torch.randn(128, *world.latents.shape[1:], generator=generator)
        scheduler.set_timesteps(TEACHER_STEPS)
        z = noise
        for t in scheduler.timesteps:
            z = scheduler.step(world.teacher_epsilon(z, t.expand(len(z)), text), t, z).prev_sample
        for key, value in (("noise", noise), ("sample", z), ("ids", ids)):
            done[key].append(value)
        if batch % 10 == 9:
            torch.save(done, path)
            print(f"pairs {128 * (batch + 1)} {time.perf_counter() - started:.0f} s", flush=True)
    torch.save(done, path)
    return torch.cat(done["noise"]), torch.cat(done["sample"]), torch.cat(done["ids"])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1600)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    world = load_world()
    noises, samples, ids = teacher_pairs(world)
    student = student_of(world.teacher)

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(SEED, step)
        chosen = torch.randint(len(noises), (BATCH,), generator=generator)
        n, x, text = noises[chosen], samples[chosen], world.encode(ids[chosen])
        s = ((torch.arange(BATCH) + torch.rand(1, generator=generator)) / BATCH).view(-1, 1, 1, 1)  # stratified
        s = s.where(torch.rand(BATCH, 1, 1, 1, generator=generator) > 0.15, 1.0)  # the start counts in every sampler
        v = predict(student, (1 - s) * x + s * n, 1000 * s.flatten(), text)
        return (v - (x - n)).square().mean()

    def report(averaged: dict[str, nn.Module], step: int) -> str:
        return world.draw_grid(f"rectified-flow-{step}", averaged["unet"], rectified_flow_schedule(4))

    averaged = train(
        "rectified-flow",
        {"unet": student},
        loss_of_step,
        steps=steps,
        learning_rate=8e-4,
        ema=0.997,
        report=report,
        report_every=400,
    )
    save_half(averaged["unet"].to(memory_format=torch.contiguous_format), FOLDER / "unet")


if __name__ == "__main__":
    main()
