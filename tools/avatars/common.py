"""What every training script of the avatars world shares: data, a resumable loop with averaged weights, saving."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
DATA = HERE / "data"
WEIGHTS = HERE.parents[1] / "samplers" / "guideflow_avatars" / "weights"
BASE = WEIGHTS / "base"  # the teacher: an ordinary Stable Diffusion folder that every student builds on


def load_data(name: str) -> dict[str, Tensor | list[str]]:
    """Read `images` (N, 3, 64, 64) in uint8, `identity`, an index per attribute, and `captions`."""
    path = DATA / f"{name}.npz"
    if not path.exists():
        raise SystemExit(f"{path} is missing: run `python tools/avatars/render.py` first.")
    with numpy.load(path) as file:
        data = {key: file[key] for key in file.files}
    captions = [str(text) for text in data.pop("captions")]
    tensors = {key: torch.from_numpy(value) for key, value in data.items()}
    tensors["images"] = tensors["images"].permute(0, 3, 1, 2).contiguous()
    return {**tensors, "captions": captions}


def as_float(images: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]."""
    return images.float() / 255


def step_generator(seed: int, step: int) -> torch.Generator:
    """Make the randomness of a step depend on the step alone: an interrupted run goes on as if it never stopped."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def train(
    name: str,
    modules: dict[str, nn.Module],
    loss_of_step: Callable[[int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    warmup: int = 100,
    weight_decay: float = 1e-3,
    ema: float = 0.998,
    save_every: float = 60.0,
    report: Callable[[dict[str, nn.Module], int], str] | None = None,
    report_every: int = 1000,
) -> dict[str, nn.Module]:
    """Train by AdamW with warm-up and cosine decay, going on from `data/<name>.pt`; return the averaged modules."""
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )
    averaged = {key: copy.deepcopy(module).eval().requires_grad_(False) for key, module in modules.items()}
    path = DATA / f"{name}.pt"
    first, seconds = 0, 0.0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        first, seconds = saved["step"], saved["seconds"]
        for key, module in modules.items():
            module.load_state_dict(saved["modules"][key])
            averaged[key].load_state_dict(saved["averaged"][key])
        optimizer.load_state_dict(saved["optimizer"])
        print(f"{name}: continuing at step {first}", flush=True)

    def save(step: int) -> None:
        torch.save(
            {
                "step": step,
                "seconds": seconds + time.perf_counter() - started,
                "modules": {key: module.state_dict() for key, module in modules.items()},
                "averaged": {key: module.state_dict() for key, module in averaged.items()},
                "optimizer": optimizer.state_dict(),
            },
            path.with_suffix(".tmp"),
        )
        path.with_suffix(".tmp").replace(path)

    means = [v for m in averaged.values() for v in m.state_dict().values() if v.is_floating_point()]
    values = [v for m in modules.values() for v in m.state_dict().values() if v.is_floating_point()]
    started = saved_at = time.perf_counter()
    running = None
    for step in range(first, steps):
        factor = min(1, (step + 1) / warmup) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * factor
        loss = loss_of_step(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(means, values, 1 - decay)
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        done = step + 1
        if done % 100 == 0 or done == steps:
            rate = (time.perf_counter() - started) / (done - first)
            print(f"{name} {done}/{steps} loss {running:.4f} {rate:.3f} s/step", flush=True)
        if report is not None and (done % report_every == 0 or done == steps):
            print(f"{name} {done}: {report(averaged, done)}", flush=True)
        if time.perf_counter() - saved_at > save_every or done == steps:
            save(done)
            saved_at = time.perf_counter()
    return averaged


def save_half(module: nn.Module, folder: Path) -> None:
    """Write a diffusers or transformers module as its ordinary folder, in float16; round the live module alike."""
    copy.deepcopy(module).half().save_pretrained(folder, safe_serialization=True)
    config = folder / "config.json"  # diffusers writes down where a network came from: a path of this machine
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if '"_name_or_path"' not in line))
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            if value.is_floating_point():
                value.copy_(value.half().float())
