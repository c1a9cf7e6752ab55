"""Measures every network of this world on people and prompts that none was trained on, and writes the README's table.

    python tools/avatars/evaluate.py

Also draws a random grid of 64 samples of the teacher and of the student: look at them.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import random
import re

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torchvision.utils import save_image
from transformers import AutoModelForImageClassification, CLIPTextModel, CLIPTokenizer

import world
from autoencoder import psnr
from common import DATA, HERE, WEIGHTS, as_float, load_data
from perflow import sample_student
from recognisers import FOLDERS, attribute_accuracy, embed, verification
from teacher import TEACHER, load_vae, sample_teacher, tokenize

SAMPLES = 256
BARS = {
    "autoencoder, PSNR on held-out renders (dB)": 31.0,
    "teacher, 50 DDIM steps: attribute accuracy": 0.90,
    "PeRFlow student, 4 steps: attribute accuracy": 0.85,
    "guidance identity network: verification accuracy": 0.97,
    "held-out identity network: verification accuracy": 0.97,
}


def load_network(which: str) -> torch.nn.Module:
    """A recogniser in float32."""
    return AutoModelForImageClassification.from_pretrained(FOLDERS[which], dtype=torch.float32).eval()


def held_out_prompts(count: int) -> tuple[list[str], dict[str, Tensor]]:
    """Captions of combinations never trained on, and the labels they ask for."""
    rng = random.Random("guideflow evaluation")
    chosen = [rng.choice(world.PROMPTS_OF[True]) for _ in range(count)]
    portraits = [world.sample_portrait(rng, 0) for _ in chosen]
    texts, labels = [], {key: [] for key in ("clothes", "colour", "background")}
    for (clothes, colour, background), portrait in zip(chosen, portraits, strict=True):
        asked = dataclasses.replace(portrait, clothes=clothes, colour=colour, background=background)
        texts.append(world.caption(asked))
        for key, word in zip(labels, (clothes, colour, background), strict=True):
            labels[key].append(world.LABELS[key].index(word))
    return texts, {key: torch.tensor(values) for key, values in labels.items()}


def sample(which: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Pictures of the teacher or the student for held-out prompts."""
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "perflow" / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(WEIGHTS / "perflow" / "text_encoder", dtype=torch.float32).eval()
    folder = (TEACHER if which == "teacher" else WEIGHTS / "perflow") / "unet"
    unet = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
    vae = load_vae()
    texts, labels = held_out_prompts(SAMPLES)
    noise = torch.randn(SAMPLES, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures = []
    with torch.no_grad():
        empty = encoder(tokenize(tokenizer, [""])).last_hidden_state
        for rows in torch.arange(SAMPLES).split(64):
            text = encoder(tokenize(tokenizer, [texts[i] for i in rows])).last_hidden_state
            z = (
                sample_teacher(unet, text, empty, noise[rows])
                if which == "teacher"
                else sample_student(unet, text, noise[rows])
            )
            pictures.append((vae.decode(z / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1))
    pictures = torch.cat(pictures)
    save_image(pictures[:64], DATA / f"samples-{which}.png", nrow=16)
    return pictures, labels


def main() -> None:
    """Measure and write."""
    heldout = load_data("heldout")
    rows: list[tuple[str, float]] = []
    vae = load_vae()
    rows.append(("autoencoder, PSNR on held-out renders (dB)", psnr(vae, heldout["images"])))
    with torch.no_grad():
        originals = as_float(heldout["images"][:3000:60])
        decoded = vae.decode(vae.encode(originals * 2 - 1).latent_dist.mode()).sample / 2 + 0.5
    pairs = itertools.chain.from_iterable(zip(originals[:32], decoded[:32], strict=True))
    save_image(torch.stack(list(pairs)), DATA / "samples-autoencoder.png", nrow=16)
    attributes = load_network("attributes")
    for key, value in attribute_accuracy(embed(attributes, heldout["images"]), heldout).items():
        rows.append((f"attribute classifier on held-out renders: {key}", value))
    for which, name in (("teacher", "teacher, 50 DDIM steps"), ("student", "PeRFlow student, 4 steps")):
        pictures, labels = sample(which)
        output = attributes(pictures * 2 - 1).logits.detach()
        parts = dict(zip(world.LABELS, output.split([len(w) for w in world.LABELS.values()], 1), strict=True))
        right = {key: (parts[key].argmax(1) == labels[key]).float().mean().item() for key in labels}
        rows.append((f"{name}: attribute accuracy", sum(right.values()) / len(right)))
        rows += [(f"{name}: {key}", value) for key, value in right.items()]
    for which, name in (("guidance", "guidance identity network"), ("evaluation", "held-out identity network")):
        result = verification(embed(load_network(which), heldout["images"]), heldout["identity"])
        rows.append((f"{name}: verification accuracy", result["accuracy"]))
        rows.append((f"{name}: similarity of two pictures of a person", result["same"]))
        rows.append((f"{name}: similarity of two people", result["different"]))
    hours, steps = {}, {}
    for path in DATA.glob("*.pt"):
        if "latents" not in path.stem:
            saved = torch.load(path, weights_only=True)
            hours[path.stem], steps[path.stem] = saved["seconds"] / 3600, saved["step"]
    lines = ["| measure | value | bar |", "|---|---|---|"]
    for name, value in rows:
        bar = BARS.get(name)
        lines.append(
            f"| {name} | {value:.3f} | {'' if bar is None else f'{bar:g}' + (' met' if value >= bar else ' missed')} |"
        )
    lines += ["", "| network | steps | wall-clock hours on 2 cores |", "|---|---|---|"]
    lines += [f"| {name} | {steps[name]} | {hours[name]:.2f} |" for name in sorted(hours)]
    text = "\n".join(
        [f"Measured {datetime.date.today()} on a 2-core CPU by `python tools/avatars/evaluate.py`.", "", *lines]
    )
    print(text)
    (DATA / "evaluation.json").write_text(json.dumps(dict(rows), indent=1))
    readme = HERE / "README.md"
    pattern = r"(<!-- results -->\n).*(<!-- end -->)"
    readme.write_text(re.sub(pattern, lambda m: m[1] + text + "\n" + m[2], readme.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
