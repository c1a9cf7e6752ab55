"""What every training script of the avatars world shares: device, data, a resumable loop with averages, saving."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
DATA = Path(os.environ.get("AVATARS_DATA", HERE / "data"))
WEIGHTS = Path(os.environ.get("AVATARS_WEIGHTS", HERE.parents[1] / "samplers" / "guideflow_avatars" / "weights"))
BASE = WEIGHTS / "base"  # the teacher: an ordinary Stable Diffusion folder that every student builds on
DEVICE = torch.device(os.environ.get("AVATARS_DEVICE", "cuda" if torch.cuda.is_available() else "cpu"))
MINUTES = os.environ.get("AVATARS_MINUTES")  # time for this part, from make.py; a part alone trains for its own steps
STEPS = int(os.environ.get("AVATARS_STEPS", 1_000_000_000))  # at most so many a part: to try whether all of it runs
SIZE = 128

torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
torch.backends.cudnn.benchmark = True


BFLOAT16 = DEVICE.type == "cuda" or torch.cpu._is_avx512_bf16_supported()  # elsewhere it is emulated, slowly


def autocast() -> contextlib.AbstractContextManager[None]:
    """bfloat16 wherever the device computes in it."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=BFLOAT16)


@functools.cache
def load_data(name: str) -> dict[str, Tensor | list[str]]:
    """Read `images` (N, 3, 128, 128) in uint8, `identity`, an index per attribute, and `captions`.

    Pictures and labels are on the device: a batch is an index into them.
    """
    folder = DATA / name
    if not (folder / "images.npy").exists():
        raise SystemExit(f"{folder} is missing: run `python tools/avatars/render.py` first.")
    labels = numpy.load(folder / "labels.npz")
    data: dict[str, Tensor | list[str]] = {key: torch.from_numpy(labels[key]).to(DEVICE) for key in labels.files}
    images = torch.from_numpy(numpy.load(folder / "images.npy"))  # (N, H, W, 3)
    data["images"] = images.to(DEVICE).permute(0, 3, 1, 2).contiguous()
    data["captions"] = (folder / "captions.txt").read_text("utf-8").splitlines()
    return data


def as_float(images: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]."""
    return images.float() / 255


def step_generator(seed: int, step: int) -> torch.Generator:
    """Make the randomness of a step depend on the step alone: an interrupted run goes on as if it never stopped."""
    return torch.Generator(DEVICE).manual_seed(seed * 1_000_003 + step)


class Replayed:
    """A loss of batches of one shape and its gradients, recorded once as a CUDA graph and replayed.

    Networks this small spend most of a step on launching kernels; replaying a graph launches all of them at once.
    """

    def __init__(self, loss: Callable[..., Tensor], parameters: list[nn.Parameter], batch: tuple[Tensor, ...]) -> None:
        self.batch = tuple(one.clone() for one in batch)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose their kernels before they are recorded
                self._clear(parameters)
                loss(*self.batch).backward()
        torch.cuda.current_stream().wait_stream(stream)
        self._clear(parameters)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = loss(*self.batch)
            self.loss.backward()

    @staticmethod
    def _clear(parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            parameter.grad = None

    def __call__(self, *batch: Tensor) -> Tensor:
        """Loss; the gradients lie where they were recorded."""
        for mine, one in zip(self.batch, batch, strict=True):
            mine.copy_(one)
        self.graph.replay()
        return self.loss


def train(
    name: str,
    modules: dict[str, nn.Module],
    loss_of_step: Callable[..., Tensor],
    *,
    steps: int,
    draw: Callable[[int], tuple[Tensor, ...]] | None = None,
    record: bool = True,
    learning_rate: float,
    warmup: int = 100,
    weight_decay: float = 1e-3,
    ema: float = 0.998,
    save_every: float = 60.0,
    report: Callable[[dict[str, nn.Module], int], str] | None = None,
    report_every: int = 1000,
) -> dict[str, nn.Module]:
    """Train by AdamW with warm-up and cosine decay, going on from `data/<name>.pt`; return the averaged modules.

    `loss_of_step` takes the number of the step, or the tensors that `draw` makes of it: all that is random, always of
    the same shapes. The latter is recorded and replayed on a GPU, unless `record` is False: a recording that fails
    can take the process with it.
    The decay follows the share of `steps` that is done or, under AVATARS_MINUTES, of that time if it is the larger:
    training ends with either.
    """
    budget = math.inf if MINUTES is None else 60 * float(MINUTES)
    steps = min(steps, STEPS)
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )
    averaged = {key: copy.deepcopy(module).eval().requires_grad_(False) for key, module in modules.items()}
    path = DATA / f"{name}.pt"
    first, seconds = 0, 0.0
    if path.exists():
        saved = torch.load(path, weights_only=True, map_location=DEVICE)
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
    running = torch.zeros((), device=DEVICE)
    step, replayed, record = first, None, record and DEVICE.type == "cuda" and draw is not None
    while step < steps:
        progress = max(step / steps, (seconds + time.perf_counter() - started) / budget)
        if progress >= 1:
            break
        factor = min(1, (step + 1) / warmup) * (0.5 + 0.5 * math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * factor
        batch = (step,) if draw is None else draw(step)
        if record and replayed is None:
            try:
                replayed = Replayed(loss_of_step, parameters, batch)
            except RuntimeError as error:  # some kernel cannot be recorded
                print(f"{name}: goes on launch by launch; {error}", flush=True)
                record = False
        if replayed is not None:
            loss = replayed(*batch)
        else:
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of_step(*batch)
            loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(means, values, 1 - decay)
            running.lerp_(loss.detach(), 1.0 if step == first else 0.02)
        step += 1
        if step % 100 == 0 or step == steps:
            rate = (time.perf_counter() - started) / (step - first)
            print(f"{name} {step}/{steps} loss {running.item():.4f} {rate:.3f} s/step", flush=True)
        if report is not None and step % report_every == 0:
            print(f"{name} {step}: {report(averaged, step)}", flush=True)
        if time.perf_counter() - saved_at > save_every:
            save(step)
            saved_at = time.perf_counter()
    if step > first:
        save(step)
        if report is not None:
            print(f"{name} {step}: {report(averaged, step)}", flush=True)
    return averaged


def save_half(module: nn.Module, folder: Path) -> None:
    """Write a diffusers or transformers module as its ordinary folder, in float16; round the live module alike."""
    copy.deepcopy(module).cpu().to(memory_format=torch.contiguous_format).half().save_pretrained(
        folder, safe_serialization=True
    )
    config = folder / "config.json"  # diffusers writes down where a network came from: a path of this machine
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if '"_name_or_path"' not in line))
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            if value.is_floating_point():
                value.copy_(value.half().float())


def save_sheet(pictures: Tensor, path: Path, columns: int) -> str:
    """Write pictures in [0, 1] in rows, as a PNG."""
    from torchvision.utils import save_image

    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(pictures.float().cpu(), path, nrow=columns)
    return f"wrote {path}"
