"""Trains the teacher: a text-conditioned denoiser (epsilon, Stable Diffusion's noise schedule) of latents.

python tools/avatars/teacher.py
"""

from __future__ import annotations

import argparse
import random

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

import world
from common import BASE, DATA, as_float, load_data, save_half, step_generator, train
from text import MAX_LENGTH, WIDTH, tokenize

SEED = 3
BATCH = 64
WORDINGS = 6  # captions a picture is trained with
ALPHA_BAR = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)


def build() -> UNet2DConditionModel:
    """5.8 million parameters: plain convolutions at 8x8, cross-attention to the text at 4x4."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        block_out_channels=[96, 144],
        layers_per_block=1,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def load_start(adapt: bool) -> tuple[CLIPTokenizer, CLIPTextModel, UNet2DConditionModel]:
    """What training starts from: the text encoder of text.py and a random denoiser, or the teacher as it ships."""
    if adapt:
        return (
            CLIPTokenizer.from_pretrained(BASE / "tokenizer"),
            CLIPTextModel.from_pretrained(BASE / "text_encoder", dtype=torch.float32),
            UNet2DConditionModel.from_pretrained(BASE / "unet", torch_dtype=torch.float32),
        )
    tokenizer = CLIPTokenizer.from_pretrained(DATA / "text" / "tokenizer")
    return tokenizer, CLIPTextModel.from_pretrained(DATA / "text" / "encoder"), build()


def load_vae() -> AutoencoderKL:
    """The frozen autoencoder of autoencoder.py."""
    return AutoencoderKL.from_pretrained(BASE / "vae", torch_dtype=torch.float32).eval().requires_grad_(False)


@torch.no_grad()
def load_latents(name: str) -> Tensor:
    """Scaled latents of a data set, (N, 16, 8, 8); cached on disk."""
    path = DATA / f"latents-{name}.pt"
    if not path.exists():
        vae = load_vae()
        images = load_data(name)["images"]
        latents = [vae.encode(as_float(batch) * 2 - 1).latent_dist.mode() for batch in images.split(200)]
        torch.save(torch.cat(latents) * vae.config.scaling_factor, path)
    return torch.load(path, weights_only=True)


def load_caption_ids(tokenizer: CLIPTokenizer) -> Tensor:
    """Token ids of several wordings of every training picture, (N, WORDINGS, 24)."""
    data = load_data("train")
    rng = random.Random("guideflow wordings")
    texts = []
    for values in zip(*(data[key].tolist() for key in world.LABELS), strict=True):
        words = {key: world.LABELS[key][value] for key, value in zip(world.LABELS, values, strict=True)}
        portrait = world.Portrait(0, eyes="", eyebrows="", flip=False, rotate=0, scale=1, translate=(0, 0), **words)
        texts += [world.caption(portrait, rng) for _ in range(WORDINGS)]
    return tokenize(tokenizer, texts).view(-1, WORDINGS, MAX_LENGTH)


def guided(unet: nn.Module, z: Tensor, t: Tensor, text: Tensor, empty: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: e_empty + scale (e_text - e_empty)."""
    if scale == 1:
        return unet(z, t, text).sample
    both = unet(torch.cat([z, z]), torch.cat([t, t]), torch.cat([empty.expand_as(text), text])).sample
    without, with_text = both.chunk(2)
    return without + scale * (with_text - without)


def ddim(z: Tensor, epsilon: Tensor, alpha_bar: Tensor, next_alpha_bar: Tensor) -> Tensor:
    """z' = sqrt(a') x0 + sqrt(1 - a') epsilon, x0 = (z - sqrt(1 - a) epsilon) / sqrt(a)."""
    x0 = (z - (1 - alpha_bar).sqrt() * epsilon) / alpha_bar.sqrt()
    return next_alpha_bar.sqrt() * x0 + (1 - next_alpha_bar).sqrt() * epsilon


@torch.no_grad()
def sample_teacher(
    unet: nn.Module, text: Tensor, empty: Tensor, noise: Tensor, steps: int = 50, scale: float = 2.0
) -> Tensor:
    """DDIM, trailing time steps; returns latents."""
    z = noise
    times = torch.linspace(1000, 0, steps + 1).round().long()
    for t, following in zip(times[:-1] - 1, times[1:] - 1, strict=True):
        epsilon = guided(unet, z, t.expand(len(z)), text, empty, scale)
        z = ddim(z, epsilon, ALPHA_BAR[t], ALPHA_BAR[following] if following >= 0 else torch.ones(()))
    return z


def write_pipeline_files() -> None:
    """Scheduler and index, so that the folder is an ordinary diffusers pipeline."""
    import json

    import diffusers

    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    scheduler.save_pretrained(BASE / "scheduler")
    parts = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
    }
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__, **parts}
    (BASE / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=None, help="4000, or 1600 with --adapt")
    parser.add_argument("--adapt", action="store_true", help="go on from the shipped teacher, after sharpen.py")
    options = parser.parse_args()
    name, steps, rate = ("teacher-adapted", 1600, 8e-4) if options.adapt else ("teacher", 4000, 1.5e-3)
    torch.manual_seed(SEED)
    tokenizer, encoder, unet = load_start(options.adapt)
    unet = unet.train().to(memory_format=torch.channels_last)
    latents, caption_ids = load_latents("train"), load_caption_ids(tokenizer)
    empty_ids = tokenize(tokenizer, [""])[0]
    # Weights min(snr, 5) / snr: equal care for all noise levels in terms of the clean latent (Hang et al., 2023).
    snr = ALPHA_BAR / (1 - ALPHA_BAR)
    weights = snr.clamp(max=5) / snr

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(SEED, step)
        chosen = torch.randint(len(latents), (BATCH,), generator=generator)
        wording = torch.randint(WORDINGS, (BATCH,), generator=generator)
        ids = caption_ids[chosen, wording]
        ids = empty_ids.where(torch.rand(BATCH, 1, generator=generator) < 0.1, ids)
        t = ((torch.arange(BATCH) + torch.rand(1, generator=generator)) / BATCH * 1000).long()  # stratified
        x, noise = latents[chosen], torch.randn(BATCH, *latents.shape[1:], generator=generator)
        alpha_bar = ALPHA_BAR[t].view(-1, 1, 1, 1)
        z = alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(z, t, encoder(ids).last_hidden_state).sample.float()
        return (weights[t] * (predicted - noise).square().mean((1, 2, 3))).mean()

    vae = load_vae()
    prompts = ["a smiling person with a yellow t-shirt, purple background", "a person in a red shirt, blue background"]

    @torch.no_grad()
    def report(averaged: dict[str, nn.Module], step: int) -> str:
        from torchvision.utils import save_image

        ids = tokenize(tokenizer, (prompts * 16)[:16])
        text, empty = (averaged["encoder"](x).last_hidden_state for x in (ids, empty_ids[None]))
        noise = torch.randn(16, *latents.shape[1:], generator=step_generator(SEED, -1))
        z = sample_teacher(averaged["unet"], text, empty, noise, steps=20)
        path = DATA / f"{name}-{step}.png"
        save_image(vae.decode(z / vae.config.scaling_factor).sample / 2 + 0.5, path, nrow=8)
        return f"wrote {path}"

    modules = {"unet": unet, "encoder": encoder}
    averaged = train(
        name, modules, loss_of_step, steps=options.steps or steps, learning_rate=rate, ema=0.999, report=report
    )
    save_half(averaged["unet"].to(memory_format=torch.contiguous_format), BASE / "unet")
    save_half(averaged["encoder"], BASE / "text_encoder")
    tokenizer.save_pretrained(BASE / "tokenizer")
    write_pipeline_files()


if __name__ == "__main__":
    main()
