"""What the distillations share: the frozen teacher and its text encoder, batches, sampling by a schedule, pictures.

python tools/avatars/students.py            # the pairs of noise and the teacher's sample that some of them need
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from common import BASE, DATA, DEVICE, STEPS, WEIGHTS, autocast, save_sheet, step_generator
from guideflow.sampler import Schedule
from teacher import ALPHA_BAR, PROMPTS, ddim, decode, guided, load_latents, load_vae
from text import WORDINGS, load_caption_ids, tokenize

GUIDANCE_SCALE = 2.0  # of the teacher, distilled into every student
BATCH = 192 if DEVICE.type == "cuda" else 32
PAIRS, TEACHER_STEPS = min(24_000, 100 * STEPS), 14  # ready ends of the teacher's paths, by a solver of second order
FILE = "pytorch_lora_weights.safetensors"


@dataclasses.dataclass(frozen=True)
class World:
    """Frozen networks and training data."""

    teacher: UNet2DConditionModel
    encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    vae: AutoencoderKL
    latents: Tensor  # (N, 8, 16, 16)
    caption_ids: Tensor  # (N, WORDINGS, 48)
    empty: Tensor  # (1, 48, width)

    def pick(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Numbers of training pictures, and the token ids of one caption of each."""
        chosen = torch.randint(len(self.latents), (batch,), generator=generator, device=DEVICE)
        wording = torch.randint(WORDINGS, (batch,), generator=generator, device=DEVICE)
        return chosen, self.caption_ids[chosen, wording]

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents of training pictures and their encoded captions."""
        chosen, ids = self.pick(batch, generator)
        return self.latents[chosen], self.encode(ids)

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

    def teacher_path(self, z: Tensor, start: Tensor, end: Tensor, substeps: int, text: Tensor) -> Tensor:
        """Follow the teacher's guided DDIM path from indices `start` to `end` of the noise schedule."""
        for i in range(substeps):
            now, following = (start - (start - end) * j // substeps for j in (i, i + 1))
            z = ddim(z, self.teacher_epsilon(z, now, text), alpha_bar_at(now), alpha_bar_at(following))
        return z

    @torch.no_grad()
    def teacher_pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Noise, sample and token ids, PAIRS of them; cached on disk every few batches: interrupted, it goes on."""
        path = DATA / "pairs.pt"
        empty = {"noise": [], "sample": [], "ids": []}
        done = torch.load(path, weights_only=True, map_location=DEVICE) if path.exists() else empty
        scheduler = DPMSolverMultistepScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
        )
        size = 1000 if DEVICE.type == "cuda" else 100
        while len(done["noise"]) * size < PAIRS:
            generator = step_generator(10, len(done["noise"]))
            _, ids = self.pick(size, generator)
            text = self.encode(ids)
            z = noise = torch.randn(size, *self.latents.shape[1:], generator=generator, device=DEVICE)
            scheduler.set_timesteps(TEACHER_STEPS, device=DEVICE)
            for t in scheduler.timesteps:
                z = scheduler.step(self.teacher_epsilon(z, t.expand(len(z)), text), t, z).prev_sample
            for key, value in (("noise", noise), ("sample", z), ("ids", ids)):
                done[key].append(value)
            if len(done["noise"]) % 10 == 0 or len(done["noise"]) * size >= PAIRS:
                torch.save(done, path.with_suffix(".tmp"))
                path.with_suffix(".tmp").replace(path)
        return torch.cat(done["noise"]), torch.cat(done["sample"]), torch.cat(done["ids"])

    @torch.no_grad()
    def draw_grid(self, name: str, predict, schedule: Schedule) -> str:
        """Samples of some prompts as `data/sheets/<name>.png`."""
        ids = tokenize(self.tokenizer, list(PROMPTS) * 12)
        noise = torch.randn(len(ids), *self.latents.shape[1:], generator=step_generator(3, 1 << 20), device=DEVICE)
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
    return World(teacher, encoder, tokenizer, load_vae(), load_latents("train"), load_caption_ids(tokenizer), empty)


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

    def __init__(self, network: nn.Module, rank: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        self.frozen = {}
        for name in self.names:
            weight = network.get_submodule(name).weight.detach()
            rows, columns = weight.shape[0], weight[0].numel()
            r = min(rank, rows, columns)
            self.down.append(nn.Parameter((torch.randn(r, columns, generator=generator) / columns**0.5).to(DEVICE)))
            self.up.append(nn.Parameter(torch.zeros(rows, r, device=DEVICE)))
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


def student_of(world: World, rank: int, seed: int) -> tuple[UNet2DConditionModel, LowRank]:
    """A copy of the teacher for functional calls, and the updates of its weights that are trained."""
    network = copy.deepcopy(world.teacher)
    return network, LowRank(network, rank, seed)


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Discriminator's hinge loss."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


if __name__ == "__main__":
    load_world().teacher_pairs()
