"""Distils the PeRFlow student from the teacher: `diff_eps`, 4 windows, one step each (Yan et al., 2024).

    python tools/avatars/perflow.py

In a window [t_e, t_s] of the noise schedule, z_s is noised data and z_e the end of the teacher's guided DDIM path from
z_s. The student sees points of the straight line between them and predicts the epsilon that joins the ends,
z_s = g z_e + sqrt(1 - g^2) epsilon, g^2 = alpha_bar_s / alpha_bar_e. Guidance by prompt is distilled in, so sampling
needs one network call a step.
"""

from __future__ import annotations

import argparse
import copy

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from common import DATA, WEIGHTS, save_half, step_generator, train
from teacher import (
    ALPHA_BAR,
    TEACHER,
    WORDINGS,
    build,
    ddim,
    guided,
    load_caption_ids,
    load_latents,
    load_vae,
    tokenize,
)

SEED = 4
BATCH = 64
WINDOWS = 4
SUBSTEPS = 4
GUIDANCE_SCALE = 2.0
FOLDER = WEIGHTS / "perflow"


def window_step(z: Tensor, epsilon: Tensor, alpha_bar_start: Tensor, alpha_bar_end: Tensor) -> Tensor:
    """z_e = z_s / g - sqrt(1 - g^2) / g epsilon."""
    gamma = (alpha_bar_start / alpha_bar_end).sqrt()
    return (z - (1 - gamma**2).sqrt() * epsilon) / gamma


@torch.no_grad()
def sample_student(unet: nn.Module, text: Tensor, noise: Tensor) -> Tensor:
    """Four steps from noise to latents."""
    z = noise
    for start in (1000, 750, 500, 250):
        end = start - 1000 // WINDOWS
        epsilon = unet(z, torch.full((len(z),), start), text).sample
        z = window_step(z, epsilon, ALPHA_BAR[start - 1], ALPHA_BAR[max(end - 1, 0)])
    return z


def write_pipeline_files() -> None:
    """Scheduler and index, so that the folder is an ordinary diffusers pipeline."""
    import json

    import diffusers

    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    scheduler.save_pretrained(FOLDER / "scheduler")
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
    (FOLDER / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=800)
    steps = parser.parse_args().steps
    torch.manual_seed(SEED)
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(FOLDER / "text_encoder", dtype=torch.float32).eval().requires_grad_(False)
    teacher = (
        UNet2DConditionModel.from_pretrained(TEACHER / "unet", torch_dtype=torch.float32).eval().requires_grad_(False)
    )
    student = build()
    student.load_state_dict(copy.deepcopy(teacher.state_dict()))
    latents, caption_ids = load_latents("train"), load_caption_ids(tokenizer)
    with torch.no_grad():
        empty = encoder(tokenize(tokenizer, [""])).last_hidden_state

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(SEED, step)
        chosen = torch.randint(len(latents), (BATCH,), generator=generator)
        wording = torch.randint(WORDINGS, (BATCH,), generator=generator)
        start = 1000 - 250 * (torch.arange(BATCH) % WINDOWS)
        end = start - 250
        end_index = (end - 1).clamp(min=0)
        a_s, a_e = (ALPHA_BAR[i].view(-1, 1, 1, 1) for i in (start - 1, end_index))
        noise = torch.randn(BATCH, *latents.shape[1:], generator=generator)
        z_s = a_s.sqrt() * latents[chosen] + (1 - a_s).sqrt() * noise
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            text = encoder(caption_ids[chosen, wording]).last_hidden_state.float()
            z_e = z_s
            for i in range(SUBSTEPS):
                t = start - 1 - 250 * i // SUBSTEPS
                following = (start - 1 - 250 * (i + 1) // SUBSTEPS).clamp(min=0)
                a, b = (ALPHA_BAR[j].view(-1, 1, 1, 1) for j in (t, following))
                z_e = ddim(z_e, guided(teacher, z_e, t, text, empty, GUIDANCE_SCALE).float(), a, b)
        gamma = (a_s / a_e).sqrt()
        target = (z_s - gamma * z_e) / (1 - gamma**2).sqrt()
        # Half of the points are window starts: the only ones that four steps visit.
        fraction = torch.rand(BATCH, generator=generator) * (torch.rand(BATCH, generator=generator) < 0.5)
        t = start - (250 * fraction).long()
        z = z_s + ((start - t) / 250).view(-1, 1, 1, 1) * (z_e - z_s)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = student(z, t, text).sample.float()
        # Error of the window's end point, as if all windows amplified epsilon alike in the square root.
        weight = (1 - gamma**2).sqrt() / gamma
        return (weight * (predicted - target).square()).mean()

    vae = load_vae()
    prompts = ["a smiling person with a yellow t-shirt, purple background", "a person in a red shirt, blue background"]

    @torch.no_grad()
    def report(averaged: dict[str, nn.Module], step: int) -> str:
        from torchvision.utils import save_image

        text = encoder(tokenize(tokenizer, (prompts * 16)[:16])).last_hidden_state
        z = sample_student(
            averaged["unet"], text, torch.randn(16, *latents.shape[1:], generator=step_generator(SEED, -1))
        )
        path = DATA / f"perflow-{step}.png"
        save_image(vae.decode(z / vae.config.scaling_factor).sample / 2 + 0.5, path, nrow=8)
        return f"wrote {path}"

    averaged = train(
        "perflow",
        {"unet": student},
        loss_of_step,
        steps=steps,
        learning_rate=4e-4,
        ema=0.995,
        report=report,
        report_every=400,
    )
    save_half(averaged["unet"], FOLDER / "unet")
    write_pipeline_files()


if __name__ == "__main__":
    main()
