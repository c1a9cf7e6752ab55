"""Measures every network of this world on people and prompts that none was trained on, and writes the README's table.

    python tools/avatars/evaluate.py

Also draws a random grid of 64 samples of every generator: look at them.
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
from transformers import AutoModelForImageClassification

import guideflow as gf
import world
from autoencoder import psnr
from common import BASE, DATA, HERE, as_float, load_data
from recognisers import FOLDERS, attribute_accuracy, embed, verification
from teacher import load_vae, sample_teacher

SAMPLES = 256
GENERATORS = {
    "teacher": "teacher, 50 DDIM steps",
    "perflow": "PeRFlow, 4 steps",
    "rectified-flow": "2-rectified flow, 4 steps",
    "instaflow": "InstaFlow, 1 step",
    "turbo": "Turbo, 4 steps",
    "pcm": "PCM, 4 steps",
}
BARS = {
    "autoencoder, PSNR on held-out renders (dB)": 31.0,
    "teacher, 50 DDIM steps: attribute accuracy": 0.90,
    "PeRFlow, 4 steps: attribute accuracy": 0.85,
    "2-rectified flow, 4 steps: attribute accuracy": 0.85,
    "InstaFlow, 1 step: attribute accuracy": 0.75,
    "Turbo, 4 steps: attribute accuracy": 0.85,
    "PCM, 4 steps: attribute accuracy": 0.85,
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


@torch.no_grad()
def sample(which: str, texts: list[str]) -> Tensor:
    """Pictures of the teacher or of a family's student for some prompts; the first 64 also as a picture file."""
    sampler = gf.load_sampler("avatars-perflow" if which == "teacher" else f"avatars-{which}")
    noise = torch.randn(len(texts), *sampler.latent_shape, generator=torch.Generator().manual_seed(0))
    teacher = UNet2DConditionModel.from_pretrained(BASE / "unet", torch_dtype=torch.float32).eval()
    pictures = []
    for rows in torch.arange(len(texts)).split(64):
        condition = sampler.condition([texts[i] for i in rows])
        if which == "teacher":
            z = sample_teacher(teacher, condition.text, sampler.condition([""]).text, noise[rows])
        else:
            z = sampler.prepare(noise[rows])
            for k in range(sampler.num_steps):
                z = sampler.step(k, z, condition)
        pictures.append(sampler.decode(z))
    save_image(torch.cat(pictures)[:64], DATA / f"samples-{which}.png", nrow=16)
    return torch.cat(pictures)


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
    texts, labels = held_out_prompts(SAMPLES)
    for which, name in GENERATORS.items():
        pictures = sample(which, texts)
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
        if not path.stem.startswith(("latents", "pairs")):
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
