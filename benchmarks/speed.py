"""What guideflow adds to the floor, and what it saves compared with a loop around a pipeline of diffusers.

    python benchmarks/speed.py                      # avatars-perflow, and a PeRFlow of SD 1.5's size; 15 minutes
    python benchmarks/speed.py --only avatars       # minutes
    python benchmarks/speed.py --device cuda --size 512
    python benchmarks/speed.py --tiny               # the same code in seconds, nothing written

The floor is a bare loop over the same networks: K evaluations and their input gradients, decoder, loss, update
(`loops.py`). All loops solve the same task and must give the same pictures. They take turns in one process, each first
in some round, so that a change of the machine's load meets all alike; ratios are taken within a round, and medians over
the rounds. Processor time, which other work on the machine changes less, gives a second ratio. Time on a GPU is that of
its events. Peak memory is what a solve takes above what was there before: allocated on a GPU, resident on a CPU. The
large network has random weights, on which neither depends. Results go to benchmarks/results/speed.json and speed.md.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from avatars import write_between
from loops import LOOPS, Task
from resident import resident, resident_before
from sd15_iteration import build
from torch import Tensor, nn
from torch.nn import functional as F

import guideflow as gf
from guideflow_avatars import portrait
from guideflow_diffusers.latent import LatentSampler
from guideflow_diffusers.perflow import perflow_schedule

RESULTS = Path(__file__).parent / "results"
PAGE = RESULTS.parent.parent / "docs" / "design" / "speed.md"
FLOOR, OURS, THEIRS, CAREFUL = LOOPS
# Most that guideflow may cost in relation to the floor and to the pipeline; how far pictures may differ.
GOALS = {"avatars": (1.05, 0.75), "sd15": (1.05, 1.0)}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
CHECKED = 2  # iterations after which pictures are compared; each one more multiplies what rounding has left
BATCH = 8


def avatars(device: str) -> Task:
    """`avatars-perflow`, one picture guided to a bundled portrait."""
    sampler = gf.load_sampler("avatars-perflow", device=device)
    loss = gf.load_loss("avatars-identity", reference=portrait("ada"), device=device)

    def bare(pictures: Tensor) -> Tensor:
        return 1 - F.normalize(loss._network(pictures * 2 - 1).logits, dim=1) @ loss._target

    return Task(sampler, loss, bare, "a smiling person with a yellow t-shirt, purple background", (0,))


def sd15(device: str, size: int, dtype: torch.dtype, *, tiny: bool) -> Task:
    """A PeRFlow of Stable Diffusion 1.5's size with random weights, and a loss that costs nothing."""
    torch.manual_seed(0)
    parts = build(dtype, tiny=tiny)
    for network in (parts.unet, parts.vae, parts.text_encoder):
        nn.Module.to(network, device)
    sampler = LatentSampler(parts, perflow_schedule(4), image_size=(64, 64) if tiny else (size, size))

    def loss(pictures: Tensor) -> Tensor:
        return pictures.square().mean((1, 2, 3))

    return Task(sampler, loss, loss, "a cat", (0,))


def measure(device: torch.device, call: Callable[[], Tensor]) -> tuple[float, float, int, Tensor]:
    """Seconds, those of the processor, bytes at the peak above what was there before, and the result."""
    gc.collect()
    used = time.process_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        result = call()
        end.record()
        torch.cuda.synchronize(device)
        used = time.process_time() - used
        return start.elapsed_time(end) / 1e3, used, torch.cuda.max_memory_allocated(device) - before, result
    before = resident_before()
    begin = time.perf_counter()
    result = call()
    taken, used = time.perf_counter() - begin, time.process_time() - used
    return taken, used, max(resident("VmHWM") - before, 0), result


class Counter:
    """Counts the evaluations of a network."""

    def __init__(self, network: nn.Module) -> None:
        """Look on."""
        self.count = 0
        network.register_forward_hook(self._add)

    def _add(self, *_: object) -> None:
        self.count += 1


def spread(values: list[float]) -> dict[str, float]:
    """Median with least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compare(task: Task, iterations: int, repeats: int) -> dict[str, dict]:
    """Every loop in turns: seconds per iteration, ratio to the floor and to guideflow, memory, evaluations."""
    device = task.sampler.device
    denoiser, encoder = Counter(task.sampler.parts.unet), Counter(task.sampler.parts.text_encoder)
    seconds: dict[str, list[float]] = {name: [] for name in LOOPS}
    processor: dict[str, list[float]] = {name: [] for name in LOOPS}
    memory: dict[str, list[float]] = {name: [] for name in LOOPS}
    counts: dict[str, tuple[int, int]] = {}
    names = list(LOOPS)
    rollouts = iterations + 1
    pictures = {name: LOOPS[name](task, min(iterations, CHECKED)) for name in names}
    require_equal(pictures, TOLERANCE[task.sampler.dtype])
    for turn in range(repeats + 1):  # the first warms up
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            denoiser.count = encoder.count = 0
            taken, used, peak, _ = measure(device, lambda name=name: LOOPS[name](task, iterations))
            counts[name] = (denoiser.count, encoder.count)
            if turn:
                seconds[name].append(taken / rollouts)
                processor[name].append(used / rollouts)
                memory[name].append(peak)
    assert len({count for count, _ in counts.values()}) == 1, f"unequal work: {counts}"
    return {
        name: {
            "seconds": spread(seconds[name]),
            "to floor": spread([a / b for a, b in zip(seconds[name], seconds[FLOOR], strict=True)]),
            "to floor, processor": spread([a / b for a, b in zip(processor[name], processor[FLOOR], strict=True)]),
            "guideflow to this": spread([a / b for a, b in zip(seconds[OURS], seconds[name], strict=True)]),
            "memory": statistics.median(memory[name]),
            "evaluations": counts[name][0] / rollouts,
            "encodings": counts[name][1] / rollouts,
            "difference": (pictures[name] - pictures[FLOOR]).abs().max().item(),
        }
        for name in LOOPS
    }


def require_equal(pictures: dict[str, Tensor], tolerance: float) -> None:
    """Stop unless every loop gave the floor's pictures."""
    for name, found in pictures.items():
        difference = (found - pictures[FLOOR]).abs().max().item()
        if not difference <= tolerance:
            raise SystemExit(f"{name} gives other pictures than the {FLOOR}: they differ by {difference:.2g}.")


def batch(task: Task, iterations: int, repeats: int) -> dict:
    """A solve of several pictures, and as many of one, in turns; the same pictures, before rounding has grown."""
    together = replace(task, seeds=tuple(range(BATCH)))
    alone = [replace(task, seeds=(seed,)) for seed in together.seeds]
    times: dict[str, list[float]] = {"together": [], "one by one": []}
    few = min(iterations, CHECKED)
    single = torch.cat([LOOPS[OURS](one, few) for one in alone])
    difference = (single - LOOPS[OURS](together, few)).abs().max().item()
    for _ in range(repeats):
        taken = measure(task.sampler.device, lambda: LOOPS[OURS](together, iterations))[0]
        each = [measure(task.sampler.device, lambda one=one: LOOPS[OURS](one, iterations))[0] for one in alone]
        times["together"].append(taken / (iterations + 1))
        times["one by one"].append(sum(each) / (iterations + 1))
    ratios = [a / b for a, b in zip(times["together"], times["one by one"], strict=True)]
    return {**{name: spread(found) for name, found in times.items()}, "ratio": spread(ratios), "difference": difference}


def table(report: dict) -> str:
    """The report as a page."""
    lines = [
        f"Measured on {report['machine']}, {report['date']}, by `python benchmarks/speed.py`. Medians (least to most).",
        "",
    ]
    for key, part in report["parts"].items():
        lines += [
            f"**{part['title']}**, {part['iterations']} iterations and the unguided pass before them, "
            f"{part['repeats']} rounds:",
            "",
            "| loop | seconds per iteration | ratio to floor | in processor time | peak memory | network evaluations "
            "| prompt encodings | largest difference of a pixel |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, row in part["rows"].items():
            took, ratio = row["seconds"], row["to floor"]
            lines.append(
                f"| {name} | {took['median']:.3f} ({took['min']:.3f} to {took['max']:.3f}) "
                f"| {ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f}) "
                f"| {row['to floor, processor']['median']:.3f} | {row['memory'] / 1e6:.0f} MB "
                f"| {row['evaluations']:g} | {row['encodings']:.2g} | {row['difference']:.1g} |"
            )
        most, less = GOALS[key]
        ours, theirs = part["rows"][OURS]["to floor"]["median"], part["rows"][THEIRS]["guideflow to this"]["median"]
        careful = part["rows"][CAREFUL]["guideflow to this"]["median"]
        lines += [
            "",
            f"guideflow / floor = {ours:.3f} (goal: {most:g} at most, {'met' if ours <= most else 'NOT met'}); "
            f"guideflow / pipeline = {theirs:.2f} (goal: {less:g} at most, {'met' if theirs <= less else 'NOT met'}), "
            f"{careful:.2f} of the pipeline with frozen weights.",
            "",
        ]
    if many := report.get("batch"):
        lines += [
            f"**{BATCH} pictures** of avatars-perflow in one solve: {many['together']['median']:.3f} s per iteration; "
            f"in {BATCH} solves, {many['one by one']['median']:.3f} s together. Ratio {many['ratio']['median']:.2f} "
            f"({many['ratio']['min']:.2f} to {many['ratio']['max']:.2f}; goal: 1 at most, "
            f"{'met' if many['ratio']['median'] <= 1 else 'NOT met'}); "
            f"pixels differ by {many['difference']:.1g} at most after {CHECKED} iterations.",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("avatars", "sd15"), help="one of the networks; the other's results stay")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=256, help="side of the large network's picture in pixels")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"], help="of the large network")
    parser.add_argument("--repeats", type=int, help="rounds; 9 for avatars, 3 for the large network by default")
    parser.add_argument("--tiny", action="store_true", help="a small network of the large one's make, and few rounds")
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")
    path = RESULTS / ("speed-cuda.json" if cuda else "speed.json")
    old = json.loads(path.read_text()) if path.exists() and not options.tiny else {}
    report = {
        "date": str(datetime.date.today()),
        "machine": torch.cuda.get_device_name(options.device) if cuda else f"a {os.cpu_count()}-core CPU",
        "parts": old.get("parts", {}),
        "batch": old.get("batch"),
    }
    if options.only != "sd15":
        task, iterations, repeats = avatars(options.device), 2 if options.tiny else 8, options.repeats or 9
        repeats = 1 if options.tiny else repeats
        report["parts"]["avatars"] = {
            "title": "avatars-perflow, one 128x128 picture, float32",
            "iterations": iterations,
            "repeats": repeats,
            "rows": compare(task, iterations, repeats),
        }
        report["batch"] = batch(task, 2 if options.tiny else 4, max(1, repeats // 3))
    if options.only != "avatars":
        task = sd15(options.device, options.size, getattr(torch, options.dtype), tiny=options.tiny)
        millions = sum(weight.numel() for weight in task.sampler.parts.unet.parameters()) / 1e6
        repeats = 1 if options.tiny else options.repeats or 3
        report["parts"]["sd15"] = {
            "title": f"PeRFlow with a denoiser of {millions:.0f} million random weights, one "
            f"{task.sampler.image_size[0]}x{task.sampler.image_size[1]} picture, {options.dtype}",
            "iterations": 1,
            "repeats": repeats,
            "rows": compare(task, 1, repeats),
        }
    text = table(report)
    print(text)
    if not options.tiny:
        path.write_text(json.dumps(report, indent=1) + "\n")
        path.with_suffix(".md").write_text(text)
        if not cuda:
            write_between(PAGE, "speed", text)


if __name__ == "__main__":
    main()
