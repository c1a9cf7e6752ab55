"""What each gradient mode costs: peak memory above the weights, and time, of one rollout with its gradients.

    python benchmarks/memory.py                    # a PeRFlow of SD 1.5's size (256x256, bfloat16), and avatars-perflow
    python benchmarks/memory.py --device cuda --size 512
    python benchmarks/memory.py --tiny             # the same code in seconds, nothing written

Modes take turns, so that a change of the machine's load meets all alike; medians are reported. On a GPU the peak is
that of allocated memory, on Linux that of resident memory, which is reset before each rollout. The large network has
random weights, on which neither memory nor time depends. Results go to benchmarks/results/memory.json and memory.md.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

# Large tensors go back to the system as soon as they are freed; otherwise resident memory tells of the past.
if os.environ.get("MALLOC_MMAP_THRESHOLD_") is None and sys.platform == "linux":
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "262144"
    os.execv(sys.executable, [sys.executable, *sys.argv])

import torch
from avatars import write_between
from resident import resident, resident_before
from sd15_iteration import build

import guideflow as gf
from guideflow.gradients import MODES
from guideflow_diffusers.latent import LatentSampler
from guideflow_diffusers.perflow import perflow_schedule

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "tutorials" / "memory-and-speed.md"
GOALS = {"windowed": (0.40, 1.40), "checkpointed": (0.25, None)}


def peak_above(device: torch.device, call: Callable[[], gf.Rollout]) -> tuple[gf.Rollout, int, float]:
    """What a call returns, bytes at its peak above what was there before, and its seconds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        before = resident_before()
    start = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident("VmHWM")
    return result, peak - before, seconds


def compare(sampler: gf.Sampler, images: int, repeats: int) -> dict[str, dict[str, float]]:
    """Peak and seconds of every mode, medians of interleaved repeats; gradients must agree."""
    noise, condition = gf.draw_noise(sampler, range(images)), sampler.condition(["a cat"] * images)
    found: dict[str, list[tuple[int, float]]] = {mode: [] for mode in MODES}
    wanted = None
    with torch.no_grad():
        sampler.decode(sampler.step(0, sampler.prepare(noise.initial), condition, noise.steps[0]))  # warms up
    for _ in range(repeats):
        for mode in MODES:
            problem = gf.Problem(
                sampler, lambda x: (x - 0.2).square().mean((1, 2, 3)), noise, condition, gradient_mode=mode
            )
            z0 = problem.z0
            controls = z0.new_zeros(sampler.num_steps, *z0.shape)
            rollout, peak, seconds = peak_above(sampler.device, partial(problem.rollout, z0, controls))
            found[mode].append((peak, seconds))
            wanted = rollout if wanted is None else wanted
            assert torch.equal(rollout.images, wanted.images)
            error = (rollout.gradients - wanted.gradients).norm() / wanted.gradients.norm()
            print(f"{mode:13} peak {peak / 1e6:7.0f} MB  {seconds:6.2f} s  gradient differs by {error:.1e}", flush=True)
    rows = {}
    for mode, runs in found.items():
        peak, seconds = (statistics.median(column) for column in zip(*runs, strict=True))
        rows[mode] = {"peak": peak, "seconds": seconds}
    for row in rows.values():
        row["memory"], row["time"] = (row[key] / rows["full"][key] for key in ("peak", "seconds"))
    return rows


def table(report: dict) -> str:
    """The report for people."""
    lines = [f"Measured on {report['machine']}, {report['date']}, by `python benchmarks/memory.py`.", ""]
    lines += [
        "| network | gradients | peak above the weights | of full | time | of full |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in report["networks"].items():
        for i, (mode, row) in enumerate(rows.items()):
            lines.append(
                f"| {'' if i else name} | {mode} | {row['peak'] / 1e6:.0f} MB | {row['memory']:.2f} "
                f"| {row['seconds']:.2f} s | {row['time']:.2f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Build, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=256, help="side of the picture in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--guidance", type=float, default=1.0, help="of the prompt; above 1 doubles the batch")
    parser.add_argument("--tiny", action="store_true", help="small networks of the same make")
    options = parser.parse_args()
    torch.manual_seed(0)
    networks = {}
    avatars = gf.load_sampler("avatars-perflow", device=options.device)
    networks["avatars-perflow, 128x128, float32, 8 images"] = compare(avatars, 8, options.repeats)
    size = 64 if options.tiny else options.size
    parts = build(torch.bfloat16, tiny=options.tiny)
    for network in (parts.unet, parts.vae, parts.text_encoder):
        network.to(options.device)
    sampler = LatentSampler(parts, perflow_schedule(4), image_size=(size, size), guidance_scale=options.guidance)
    name = f"PeRFlow of SD 1.5's size, {size}x{size}, bfloat16, 1 image"
    networks[name] = compare(sampler, 1, options.repeats)
    cuda = options.device.startswith("cuda")
    machine = torch.cuda.get_device_name() if cuda else f"a {torch.get_num_threads()}-core CPU"
    report = {"date": str(datetime.date.today()), "machine": machine, "networks": networks}
    print(table(report))
    for mode, (memory, most) in GOALS.items():
        row = networks[name][mode]
        good = row["memory"] <= memory and (most is None or row["time"] <= most)
        print(
            f"{mode}: {row['memory']:.2f} of the memory (goal {memory}), {row['time']:.2f} of the time (goal {most})",
            "reached" if good else "MISSED",
        )
    if not options.tiny:
        (RESULTS / "memory.json").write_text(json.dumps(report, indent=1) + "\n")
        (RESULTS / "memory.md").write_text(table(report))
        if not cuda:
            write_between(PAGE, "memory", table(report))


if __name__ == "__main__":
    main()
