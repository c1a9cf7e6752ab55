"""What the distillations share: the frozen teacher and its text encoder, batches, sampling by a schedule, pictures."""

from __future__ import annotations

import copy
import dataclasses

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from common import BASE, DATA, step_generator
from guideflow.sampler import Schedule
from teacher import ALPHA_BAR, WORDINGS, build, ddim, guided, load_caption_ids, load_latents, load_vae, tokenize

GUIDANCE_SCALE = 2.0  # of the teacher, distilled into every student
PROMPTS = ("a smiling person with a yellow t-shirt, purple background", "a person in a red shirt, blue background")


@dataclasses.dataclass(frozen=True)
class World:
    """Frozen networks and training data."""

    teacher: UNet2DConditionModel
    encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    vae: AutoencoderKL
    latents: Tensor  # (N, 16, 8, 8)
    caption_ids: Tensor  # (N, WORDINGS, 24)
    empty: Tensor  # (1, 24, width)

    def pick(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Numbers of training pictures, and the token ids of one caption of each."""
        chosen = torch.randint(len(self.latents), (batch,), generator=generator)
        wording = torch.randint(WORDINGS, (batch,), generator=generator)
        return chosen, self.caption_ids[chosen, wording]

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents of training pictures and their encoded captions."""
        chosen, ids = self.pick(batch, generator)
        return self.latents[chosen], self.encode(ids)

    @torch.no_grad()
    def encode(self, ids: Tensor) -> Tensor:
        """Hidden states of the text encoder, (B, 24, width)."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.encoder(ids).last_hidden_state.float()

    @torch.no_grad()
    def teacher_epsilon(self, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """The teacher's guided epsilon."""
        with torch.autocast("cpu", torch.bfloat16):
            return guided(self.teacher, z, t, text, self.empty, GUIDANCE_SCALE).float()

    def teacher_path(self, z: Tensor, start: Tensor, end: Tensor, substeps: int, text: Tensor) -> Tensor:
        """Follow the teacher's guided DDIM path from indices `start` to `end` of the noise schedule."""
        for i in range(substeps):
            now, following = (start - (start - end) * j // substeps for j in (i, i + 1))
            z = ddim(z, self.teacher_epsilon(z, now, text), alpha_bar_at(now), alpha_bar_at(following))
        return z

    @torch.no_grad()
    def draw_grid(self, name: str, unet: nn.Module, schedule: Schedule) -> str:
        """Sixteen samples of two prompts as `data/<name>.png`."""
        from torchvision.utils import save_image

        text = self.encode(tokenize(self.tokenizer, (list(PROMPTS) * 16)[:16]))
        noise = torch.randn(16, *self.latents.shape[1:], generator=step_generator(0, -1))
        z = sample(unet, schedule, text, noise)
        path = DATA / f"{name}.png"
        save_image(self.vae.decode(z / self.vae.config.scaling_factor).sample / 2 + 0.5, path, nrow=8)
        return f"wrote {path}"


def alpha_bar_at(index: Tensor) -> Tensor:
    """Rows of the noise schedule, (B, 1, 1, 1)."""
    return ALPHA_BAR[index].view(-1, 1, 1, 1)


def load_unet(folder: object) -> UNet2DConditionModel:
    """A frozen denoiser in float32."""
    return UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32).eval().requires_grad_(False)


def load_world() -> World:
    """Everything that a distillation starts from."""
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(BASE / "text_encoder", dtype=torch.float32).eval().requires_grad_(False)
    with torch.no_grad():
        empty = encoder(tokenize(tokenizer, [""])).last_hidden_state
    teacher = load_unet(BASE / "unet").to(memory_format=torch.channels_last)
    return World(teacher, encoder, tokenizer, load_vae(), load_latents("train"), load_caption_ids(tokenizer), empty)


def student_of(network: nn.Module) -> UNet2DConditionModel:
    """A trainable copy."""
    student = build()
    student.load_state_dict(copy.deepcopy(network.state_dict()))
    return student.to(memory_format=torch.channels_last)


def predict(unet: nn.Module, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """The network in bfloat16 autocast, its output in float32."""
    with torch.autocast("cpu", torch.bfloat16):
        return unet(z, t, text).sample.float()


@torch.no_grad()
def sample(unet: nn.Module, schedule: Schedule, text: Tensor, noise: Tensor) -> Tensor:
    """Latents by the affine steps of a schedule; deterministic families only."""
    z = schedule.init_scale * noise
    for a, b, t in zip(schedule.state, schedule.output, schedule.times, strict=True):
        z = a * z + b * predict(unet, z, torch.full((len(z),), t), text)
    return z


def pseudo_huber(difference: Tensor, c: float = 0.03) -> Tensor:
    """sqrt(d^2 + c^2) - c, the mean over entries: less led by outliers than the square."""
    return ((difference.square() + c**2).sqrt() - c).mean()


class LowRank(nn.Module):
    """Trainable low-rank updates of a frozen network's linear and convolutional weights, W + up down."""

    def __init__(self, network: nn.Module, rank: int, seed: int) -> None:
        super().__init__()
        self.rank = rank
        generator = torch.Generator().manual_seed(seed)
        self.names = [
            name
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and name not in ("conv_in", "conv_out")
        ]
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        self.frozen = {}
        for name in self.names:
            weight = network.get_submodule(name).weight.detach()
            rows, columns = weight.shape[0], weight[0].numel()
            r = min(rank, rows, columns)
            self.down.append(nn.Parameter(torch.randn(r, columns, generator=generator) / columns**0.5))
            self.up.append(nn.Parameter(torch.zeros(rows, r)))
            self.frozen[name] = weight

    def weights(self) -> dict[str, Tensor]:
        """Merged weights by parameter name, differentiable in the updates."""
        return {
            f"{name}.weight": self.frozen[name] + (up @ down).view_as(self.frozen[name])
            for name, down, up in zip(self.names, self.down, self.up, strict=True)
        }

    def predict(self, network: nn.Module, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """`predict` with merged weights."""
        with torch.autocast("cpu", torch.bfloat16):
            return torch.func.functional_call(network, self.weights(), (z, t, text)).sample.float()

    @torch.no_grad()
    def merged(self, network: nn.Module) -> nn.Module:
        """A copy of the network with the updates merged in."""
        copied = copy.deepcopy(network)
        copied.load_state_dict({**copied.state_dict(), **self.weights()})
        return copied

    def save(self, path: object) -> None:
        """Write a LoRA file with the keys of kohya's trainer, `lora_unet_<module>.lora_down.weight`, in float16."""
        from safetensors.torch import save_file

        tensors = {}
        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            key = f"lora_unet_{name.replace('.', '_')}"
            shape = self.frozen[name].shape
            wide = down.detach().view(len(down), *shape[1:])
            tall = up.detach().view(*up.shape, *(1 for _ in shape[2:]))
            tensors[f"{key}.lora_down.weight"] = wide.half().contiguous()
            tensors[f"{key}.lora_up.weight"] = tall.half().contiguous()
            tensors[f"{key}.alpha"] = torch.tensor(float(len(down)))
        save_file(tensors, path)


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Discriminator's hinge loss."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
