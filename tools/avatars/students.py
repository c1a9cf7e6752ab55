"""What the distillations share: the frozen teacher and its text encoder, batches, sampling by a schedule, pictures.

python tools/avatars/students.py            # the paths of the teacher that all of them learn from
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from common import BASE, DATA, DEVICE, STEPS, WEIGHTS, autocast, save_sheet, step_generator
from guideflow.sampler import Schedule
from teacher import ALPHA_BAR, PROMPTS, ddim, decode, guided, load_vae
from text import WORDINGS, load_caption_ids, tokenize

GUIDANCE_SCALE = 2.0  # of the teacher, distilled into every student
BATCH = 192 if DEVICE.type == "cuda" else 32
INDICES = tuple(round(999 - 999 * i / 16) if i % 4 else (999, 749, 499, 249, 0)[i // 4] for i in range(17))
SUBSTEPS = 2  # of the teacher between two of these time steps
PART = 1000 if DEVICE.type == "cuda" else 50  # paths that are followed, and written down, together
PATHS = min(40_000 if DEVICE.type == "cuda" else 8_000, PART * STEPS)
SHAPE = (8, 16, 16)
FILE = "pytorch_lora_weights.safetensors"


@dataclasses.dataclass(frozen=True)
class Paths:
    """Guided DDIM paths of the teacher: what every student learns from."""

    states: Tensor  # (N, 18, 8, 16, 16): the noise, at the time steps of `INDICES`, and last the clean latent
    text: Tensor  # (N, 48, width): the encoded captions
    ids: Tensor  # (N, 48): their tokens

    def at(self, rows: Tensor, place: Tensor | int) -> Tensor:
        """Latents of some paths at places of `states`, in float32."""
        return self.states[rows, place].float()

    def pick(self, seed: int, step: int) -> tuple[torch.Generator, Tensor, Tensor]:
        """Randomness of a step, and the rows and captions of its batch."""
        generator = step_generator(seed, step)
        rows = torch.randint(len(self.states), (BATCH,), generator=generator, device=DEVICE)
        return generator, rows, self.text[rows].float()


@dataclasses.dataclass(frozen=True)
class World:
    """Frozen networks."""

    teacher: UNet2DConditionModel
    encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    vae: AutoencoderKL
    empty: Tensor  # (1, 48, width)

    @torch.no_grad()
    def encode(self, ids: Tensor) -> Tensor:
        """Hidden states of the text encoder, (B, 48, width)."""
        with autocast():
            return self.encoder(ids).last_hidden_state.float()

    @torch.no_grad()
    def teacher_epsilon(self, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """The teacher's guided epsilon."""
        with autocast():
            return guided(self.teacher, z, t, text, self.empty, GUIDANCE_SCALE).float()

    @torch.no_grad()
    def teacher_path(self, text: Tensor, noise: Tensor) -> Tensor:
        """States of a batch of paths, (B, 18, 8, 16, 16)."""
        z, states = noise, [noise]
        for start, end in itertools.pairwise(INDICES):
            inner = torch.linspace(start, end, SUBSTEPS + 1).round().long().tolist()
            for now, following in itertools.pairwise(inner):
                epsilon = self.teacher_epsilon(z, torch.full((len(z),), now, device=DEVICE), text)
                z = ddim(z, epsilon, ALPHA_BAR[now], ALPHA_BAR[following])
            states.append(z)
        epsilon = self.teacher_epsilon(z, torch.zeros(len(z), dtype=torch.long, device=DEVICE), text)
        states.append(ddim(z, epsilon, ALPHA_BAR[0], torch.ones((), device=DEVICE)))
        return torch.stack(states, 1)

    @torch.no_grad()
    def paths(self) -> Paths:
        """The paths, PATHS of them; parts that are on disk already are not made again."""
        folder = DATA / "paths"
        folder.mkdir(parents=True, exist_ok=True)
        caption_ids = None
        states, text, tokens = [], [], []
        for number in range(math.ceil(PATHS / PART)):
            path = folder / f"{number:03}.pt"
            if not path.exists():
                caption_ids = load_caption_ids(self.tokenizer) if caption_ids is None else caption_ids
                generator = step_generator(10, number)
                rows = torch.randint(len(caption_ids), (PART,), generator=generator, device=DEVICE)
                wording = torch.randint(WORDINGS, (PART,), generator=generator, device=DEVICE)
                ids = caption_ids[rows, wording]
                noise = torch.randn(PART, *SHAPE, generator=generator, device=DEVICE)
                made = {"states": self.teacher_path(self.encode(ids), noise).half(), "ids": ids}
                torch.save(made, path.with_suffix(".tmp"))
                path.with_suffix(".tmp").replace(path)
            found = torch.load(path, weights_only=True, map_location=DEVICE)
            states.append(found["states"])
            text.append(self.encode(found["ids"]).half())
            tokens.append(found["ids"])
        return Paths(torch.cat(states), torch.cat(text), torch.cat(tokens))

    @torch.no_grad()
    def draw_grid(self, name: str, predict, schedule: Schedule) -> str:
        """Samples of some prompts as `data/sheets/<name>.png`."""
        ids = tokenize(self.tokenizer, list(PROMPTS) * 12)
        noise = torch.randn(len(ids), *SHAPE, generator=step_generator(3, 1 << 20), device=DEVICE)
        z = sample(predict, schedule, self.encode(ids), noise)
        return save_sheet(decode(self.vae, z), DATA / "sheets" / f"{name}.png", 12)


def alpha_bar_at(index: Tensor) -> Tensor:
    """Rows of the noise schedule, (B, 1, 1, 1)."""
    return ALPHA_BAR[index].view(-1, 1, 1, 1)


def load_world() -> World:
    """Everything that a distillation starts from."""
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(BASE / "text_encoder", dtype=torch.float32)
    encoder = encoder.to(DEVICE).eval().requires_grad_(False)
    with torch.no_grad():
        empty = encoder(tokenize(tokenizer, [""])).last_hidden_state
    teacher = UNet2DConditionModel.from_pretrained(BASE / "unet", torch_dtype=torch.float32)
    teacher = teacher.to(DEVICE, memory_format=torch.channels_last).eval().requires_grad_(False)
    return World(teacher, encoder, tokenizer, load_vae(), empty)


@torch.no_grad()
def sample(predict, schedule: Schedule, text: Tensor, noise: Tensor) -> Tensor:
    """Latents by the affine steps of a schedule; deterministic families only. `predict` maps (z, t, text)."""
    z = schedule.init_scale * noise
    for a, b, t in zip(schedule.state, schedule.output, schedule.times, strict=True):
        z = a * z + b * predict(z, torch.full((len(z),), t, device=DEVICE), text)
    return z


def pseudo_huber(difference: Tensor, c: float = 0.03) -> Tensor:
    """sqrt(d^2 + c^2) - c, the mean over entries: less led by outliers than the square."""
    return ((difference.square() + c**2).sqrt() - c).mean()


class LowRank(nn.Module):
    """Trainable low-rank updates of a frozen network's linear and convolutional weights, W + up down."""

    def __init__(self, network: nn.Module, rank: int, seed: int, *, turn: Sequence[str] = ()) -> None:
        """Begin at the network itself; the layers named in `turn`, of few channels, at their negative."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        self.frozen = {}
        for name in self.names:
            weight = network.get_submodule(name).weight.detach()
            rows, columns = weight.shape[0], weight[0].numel()
            r = min(rank, rows, columns)
            down = torch.randn(r, columns, generator=generator) / columns**0.5
            up = torch.zeros(rows, r)
            if name in turn:  # W + up down = -W, with both factors of like size
                size = weight.norm().item() ** 0.5
                down, up = weight.reshape(rows, columns).cpu() / size, -2 * size * torch.eye(rows)
            self.down.append(nn.Parameter(down.to(DEVICE)))
            self.up.append(nn.Parameter(up.to(DEVICE)))
            self.frozen[name] = weight

    def weights(self) -> dict[str, Tensor]:
        """Merged weights by parameter name, differentiable in the updates."""
        return {
            f"{name}.weight": self.frozen[name] + (up @ down).view_as(self.frozen[name])
            for name, down, up in zip(self.names, self.down, self.up, strict=True)
        }

    def predict(self, network: nn.Module, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """The network with merged weights, in bfloat16 where the device has it, its output in float32."""
        weights = self.weights()
        with autocast():
            return torch.func.functional_call(network, weights, (z, t, text)).sample.float()

    def load(self, family: str) -> None:
        """Read what `save` wrote."""
        from safetensors.torch import load_file

        tensors = load_file(WEIGHTS / family / FILE)
        with torch.no_grad():
            for name, down, up in zip(self.names, self.down, self.up, strict=True):
                key = f"lora_unet_{name.replace('.', '_')}"
                down.copy_(tensors[f"{key}.lora_down.weight"].flatten(1))
                up.copy_(tensors[f"{key}.lora_up.weight"].flatten(1))

    def save(self, family: str) -> None:
        """Write a LoRA file with the keys of kohya's trainer, `lora_unet_<module>.lora_down.weight`, in float16."""
        from safetensors.torch import save_file

        tensors = {}
        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            key = f"lora_unet_{name.replace('.', '_')}"
            shape = self.frozen[name].shape
            wide = down.detach().reshape(len(down), *shape[1:])
            tall = up.detach().reshape(*up.shape, *(1 for _ in shape[2:]))
            tensors[f"{key}.lora_down.weight"] = wide.half().cpu().contiguous()
            tensors[f"{key}.lora_up.weight"] = tall.half().cpu().contiguous()
            tensors[f"{key}.alpha"] = torch.tensor(float(len(down)))
        path = Path(WEIGHTS / family / FILE)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)


def student_of(world: World, rank: int, seed: int, *, turn: Sequence[str] = ()) -> tuple[UNet2DConditionModel, LowRank]:
    """A copy of the teacher for functional calls, and the updates of its weights that are trained."""
    network = copy.deepcopy(world.teacher)
    return network, LowRank(network, rank, seed, turn=turn)


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Discriminator's hinge loss."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


if __name__ == "__main__":
    load_world().paths()
