"""Trains the teacher: a text-conditioned denoiser (epsilon, Stable Diffusion's noise schedule) of latents.

python tools/avatars/teacher.py
"""

from __future__ import annotations

import argparse
import itertools
import json

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from common import BASE, DATA, DEVICE, as_float, autocast, load_data, save_half, save_sheet, step_generator, train
from text import FOLDER, WIDTH, WORDINGS, load_caption_ids, tokenize

SEED = 3
BATCH = 256 if DEVICE.type == "cuda" else 48
ALPHA_BAR = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0).to(DEVICE)
PROMPTS = (
    "a smiling person with a yellow t-shirt, purple background",
    "a person in a red shirt, blue background",
    "a sad woman with long brown hair wearing a green dress",
    "an angry man with a grey beard, white background",
)


def build() -> UNet2DConditionModel:
    """4.3 million parameters: plain convolutions at 16x16, attention to itself and to the text at 8x8."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        block_out_channels=[80, 128],
        layers_per_block=1,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def load_vae() -> AutoencoderKL:
    """The frozen autoencoder of autoencoder.py."""
    vae = AutoencoderKL.from_pretrained(BASE / "vae", torch_dtype=torch.float32)
    return vae.to(DEVICE).eval().requires_grad_(False)


@torch.no_grad()
def decode(vae: AutoencoderKL, z: Tensor) -> Tensor:
    """Pictures in [0, 1] of scaled latents."""
    batches = (part / vae.config.scaling_factor for part in z.split(100))
    return torch.cat([(vae.decode(part).sample / 2 + 0.5).clamp(0, 1) for part in batches])


@torch.no_grad()
def load_latents(name: str) -> Tensor:
    """Scaled latents of a data set, (N, 8, 16, 16); cached on disk."""
    path = DATA / f"latents-{name}.pt"
    if not path.exists():
        vae = load_vae()
        images = load_data(name)["images"]
        latents = [vae.encode(as_float(batch) * 2 - 1).latent_dist.mode() for batch in images.split(250)]
        torch.save(torch.cat(latents) * vae.config.scaling_factor, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)  # others may be waiting for it
    return torch.load(path, weights_only=True, map_location=DEVICE)


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
    times = torch.linspace(1000, 0, steps + 1).round().long().tolist()
    for t, following in itertools.pairwise(times):
        with autocast():
            epsilon = guided(unet, z, torch.full((len(z),), t - 1, device=DEVICE), text, empty, scale)
        one = torch.ones((), device=DEVICE)
        z = ddim(z, epsilon.float(), ALPHA_BAR[t - 1], ALPHA_BAR[following - 1] if following else one)
    return z


def write_pipeline_files() -> None:
    """Scheduler and index, so that the folder is an ordinary diffusers pipeline."""
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
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
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="at its highest")
    parser.add_argument("--further", action="store_true", help="go on from the weights that are there already")
    options = parser.parse_args()
    steps = options.steps
    torch.manual_seed(SEED)
    start = BASE / "tokenizer", BASE / "text_encoder"
    tokenizer_folder, encoder_folder = start if options.further else (FOLDER / "tokenizer", FOLDER / "encoder")
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    encoder = CLIPTextModel.from_pretrained(encoder_folder, dtype=torch.float32).to(DEVICE).train()
    further = (
        UNet2DConditionModel.from_pretrained(BASE / "unet", torch_dtype=torch.float32) if options.further else None
    )
    unet = further or build()
    unet = unet.train().to(DEVICE, memory_format=torch.channels_last)
    for key, weight in encoder.named_parameters():  # words are known by then, and gradients of tables slow
        weight.requires_grad_(not (options.further and "embeddings." in key))
    latents, caption_ids = load_latents("train"), load_caption_ids(tokenizer)
    empty_ids = tokenize(tokenizer, [""])[0]
    # Weights min(snr, 5) / snr: equal care for all noise levels in terms of the clean latent (Hang et al., 2023).
    snr = ALPHA_BAR / (1 - ALPHA_BAR)
    weights = snr.clamp(max=5) / snr

    def draw(step: int) -> tuple[Tensor, ...]:
        generator = step_generator(SEED, step)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=DEVICE)

        chosen = torch.randint(len(latents), (BATCH,), generator=generator, device=DEVICE)
        wording = torch.randint(WORDINGS, (BATCH,), generator=generator, device=DEVICE)
        ids = caption_ids[chosen, wording]
        ids = empty_ids.where(uniform(BATCH, 1) < 0.1, ids)
        t = ((torch.arange(BATCH, device=DEVICE) + uniform(1)) / BATCH * 1000).long()  # stratified
        x, noise = latents[chosen], torch.randn(BATCH, *latents.shape[1:], generator=generator, device=DEVICE)
        return x, noise, t, ids

    def loss(x: Tensor, noise: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        alpha_bar = ALPHA_BAR[t].view(-1, 1, 1, 1)
        z = (alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        with autocast():
            predicted = unet(z, t, encoder(ids).last_hidden_state).sample
        return (weights[t] * (predicted.float() - noise).square().mean((1, 2, 3))).mean()

    vae = load_vae()

    @torch.no_grad()
    def report(averaged: dict[str, nn.Module], step: int) -> str:
        ids = tokenize(tokenizer, list(PROMPTS) * 12)
        text, empty = (averaged["encoder"](x).last_hidden_state for x in (ids, empty_ids[None]))
        noise = torch.randn(len(ids), *latents.shape[1:], generator=step_generator(SEED, 1 << 20), device=DEVICE)
        z = sample_teacher(averaged["unet"], text, empty, noise, steps=25)
        return save_sheet(decode(vae, z), DATA / "sheets" / f"teacher-{step}.png", 12)

    modules = {"unet": unet, "encoder": encoder}
    averaged = train(
        "teacher",
        modules,
        loss,
        draw=draw,
        steps=steps,
        learning_rate=options.learning_rate,
        ema=0.999,
        report=report,
        report_every=2000,
    )
    save_half(averaged["unet"], BASE / "unet")
    save_half(averaged["encoder"], BASE / "text_encoder")
    tokenizer.save_pretrained(BASE / "tokenizer")
    write_pipeline_files()


if __name__ == "__main__":
    main()
