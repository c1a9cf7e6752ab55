"""A guided iteration at the sizes of SD 1.5 and SDXL on a GPU: seconds and peak memory of every gradient mode.

    python benchmarks/gpu.py                     # needs a GPU; a minute, results and docs/design/speed.md are written
    python benchmarks/gpu.py --device cpu --tiny # the same code in seconds, nothing written

PeRFlow with 4 steps, one picture, bfloat16 with the autoencoder in float32, random weights, on which neither time nor
memory depends. An iteration is a rollout with its gradients. Peak memory counts the weights. Beside it `speed.py`'s
comparison with a bare loop and with a loop around a pipeline of diffusers, at SD 1.5's size.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import json
import statistics
import time
from typing import Any

import torch
from avatars import write_between
from configurations import TEXT_ENCODERS, UNETS, VAE
from diffusers import AutoencoderKL, UNet2DConditionModel
from loops import Task
from sd15_iteration import tokenizer
from speed import FLOOR, OURS, PAGE, RESULTS, THEIRS, compare
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import guideflow as gf
from guideflow.errors import OutOfMemory
from guideflow.gradients import MODES
from guideflow_diffusers.latent import LatentSampler
from guideflow_diffusers.parts import Parts
from guideflow_diffusers.perflow import perflow_schedule

SIZES = {"SD 1.5": (512, 1024), "SDXL": (512, 1024)}


def build(name: str, device: str, *, tiny: bool) -> Parts:
    """Random networks of a published size, made where they are to run."""
    unet, vae, encoders = UNETS[name], VAE, TEXT_ENCODERS[name]
    if tiny:
        blocks = len(unet["block_out_channels"])
        unet = unet | {"block_out_channels": [32, 32, 64, 64][:blocks], "cross_attention_dim": 32 * len(encoders)}
        unet |= {"attention_head_dim": 8, "transformer_layers_per_block": 1}
        unet |= {"projection_class_embeddings_input_dim": 6 * 256 + 32} if name == "SDXL" else {}
        vae = vae | {"block_out_channels": [32, 32, 32, 32]}
        small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        encoders = [one | small | ({"projection_dim": 32} if "projection_dim" in one else {}) for one in encoders]
    with torch.device(device):
        configs = [CLIPTextConfig(bos_token_id=52, eos_token_id=53, **one) for one in encoders]
        more: dict[str, Any] = {}
        if len(configs) > 1:
            more = {"tokenizer_2": tokenizer(), "text_encoder_2": CLIPTextModelWithProjection(configs[1]).bfloat16()}
        return Parts(
            unet=torch.nn.Module.to(UNet2DConditionModel(**unet), torch.bfloat16),
            vae=AutoencoderKL(**vae),
            tokenizer=tokenizer(),
            text_encoder=CLIPTextModel(configs[0]).bfloat16(),
            **more,
        )


def mean_square(pictures: Tensor) -> Tensor:
    """A loss that costs nothing."""
    return (pictures - 0.2).square().mean((1, 2, 3))


def iteration(sampler: LatentSampler, mode: str, repeats: int) -> dict[str, float] | None:
    """Median seconds and peak bytes of a rollout with its gradients; None if the GPU has not the memory."""
    noise, condition = gf.draw_noise(sampler, [0]), sampler.condition(["a cat"])
    problem = gf.Problem(sampler, mean_square, noise, condition, gradient_mode=mode)
    controls = problem.z0.new_zeros(sampler.num_steps, *problem.z0.shape)
    gpu = sampler.device.type == "cuda"
    seconds = []
    gc.collect()
    with contextlib.ExitStack() as stack:
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            stack.callback(torch.cuda.empty_cache)
        for _ in range(repeats + 1):  # the first warms up
            start = time.perf_counter()
            try:
                problem.rollout(problem.z0, controls)
            except (torch.OutOfMemoryError, OutOfMemory):
                return None
            if gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        peak = torch.cuda.max_memory_allocated() if gpu else 0
    return {"seconds": statistics.median(seconds[1:]), "peak": peak}


def table(report: dict) -> str:
    """The report as a part of a page."""
    lines = [
        f"Measured on one {report['machine']}, {report['date']}, torch {report['torch']}, by "
        "`python benchmarks/gpu.py`: PeRFlow, 4 steps, one picture, bfloat16 with the autoencoder in float32.",
        "",
        "| network | pixels | gradients | seconds per iteration | peak memory, weights included |",
        "|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        found = row["found"]
        cells = f"{found['seconds']:.2f} | {found['peak'] / 1e9:.1f} GB" if found else "does not fit | "
        lines.append(f"| {row['network']} | {row['size']}x{row['size']} | {row['mode']} | {cells} |")
    if ratios := report.get("loops"):
        lines += [
            "",
            "At SD 1.5's size and 512x512 pixels an iteration of guideflow takes "
            f"{ratios['floor']:.2f} of a bare loop's time and {ratios['pipeline']:.2f} of that of a loop around a "
            "pipeline of diffusers.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-loops", action="store_true", help="without the comparison with other loops")
    parser.add_argument("--tiny", action="store_true", help="small networks of the same make")
    options = parser.parse_args()
    torch.manual_seed(0)
    rows, loops = [], None
    for name, sizes in SIZES.items():
        parts = build(name, options.device, tiny=options.tiny)
        for size in sizes:
            side = size // 8 if options.tiny else size
            sampler = LatentSampler(parts, perflow_schedule(4), image_size=(side, side))
            for mode in MODES:
                found = iteration(sampler, mode, options.repeats)
                rows.append({"network": name, "size": side, "mode": mode, "found": found})
                print(name, side, mode, found, flush=True)
                keep(options, rows, loops)
            if loops is None and not options.no_loops:
                task = Task(sampler, mean_square, mean_square, "a cat", (0,))
                seconds = compare(task, 1 if options.tiny else 3, options.repeats)
                loops = {
                    "floor": seconds[OURS]["to floor"]["median"],
                    "pipeline": seconds[THEIRS]["guideflow to this"]["median"],
                    "floor seconds": seconds[FLOOR]["seconds"]["median"],
                }
                print(loops, flush=True)
    print(keep(options, rows, loops))


def keep(options: argparse.Namespace, rows: list[dict], loops: dict[str, float] | None) -> str:
    """Write what has been measured so far, if on a GPU; return it as text."""
    gpu = options.device.startswith("cuda")
    machine = torch.cuda.get_device_name() if gpu else "CPU"
    date, version = str(datetime.date.today()), torch.__version__
    report = {"machine": machine, "date": date, "torch": version, "rows": rows, "loops": loops}
    if gpu and not options.tiny:
        (RESULTS / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
        (RESULTS / "gpu.md").write_text(table(report))
        write_between(PAGE, "gpu", table(report))
    return table(report)


if __name__ == "__main__":
    main()
