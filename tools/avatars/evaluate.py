"""Measures every network of this world on people and prompts that none was trained on, and writes the README's table.

    python tools/avatars/evaluate.py                         # everything
    python tools/avatars/evaluate.py segmentation identity   # only these; the other rows stay

Also draws a random grid of 64 samples of every generator: look at them.
"""

from __future__ import annotations

import argparse
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
from transformers import AutoModel, AutoModelForImageClassification

import guideflow as gf
import segmenter
import self_supervised
import style
import world
from autoencoder import psnr
from common import BASE, DATA, HERE, as_float, load_data
from guideflow_avatars.identity import load_recogniser
from guideflow_avatars.style import load_style_features
from labels import load_labels
from recognisers import FOLDERS, attribute_accuracy, embed, verification
from styles import HELD_OUT, STYLES
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
    "guidance segmentation network: mean IoU": 0.90,
    "held-out segmentation network: mean IoU": 0.90,
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


def measure_autoencoder() -> list[tuple[str, float]]:
    """How well pictures survive; a sheet of them as a picture file."""
    heldout = load_data("heldout")
    vae = load_vae()
    with torch.no_grad():
        originals = as_float(heldout["images"][:3000:60])
        decoded = vae.decode(vae.encode(originals * 2 - 1).latent_dist.mode()).sample / 2 + 0.5
    pairs = itertools.chain.from_iterable(zip(originals[:32], decoded[:32], strict=True))
    save_image(torch.stack(list(pairs)), DATA / "samples-autoencoder.png", nrow=16)
    return [("autoencoder, PSNR on held-out renders (dB)", psnr(vae, heldout["images"]))]


def measure_attributes() -> list[tuple[str, float]]:
    """How well the attribute classifier reads renders."""
    heldout = load_data("heldout")
    result = attribute_accuracy(embed(load_network("attributes"), heldout["images"]), heldout)
    return [(f"attribute classifier on held-out renders: {key}", value) for key, value in result.items()]


def measure_generators() -> list[tuple[str, float]]:
    """How far pictures obey their prompts."""
    rows = []
    attributes = load_network("attributes")
    texts, labels = held_out_prompts(SAMPLES)
    for which, name in GENERATORS.items():
        pictures = sample(which, texts)
        output = attributes(pictures * 2 - 1).logits.detach()
        parts = dict(zip(world.LABELS, output.split([len(w) for w in world.LABELS.values()], 1), strict=True))
        right = {key: (parts[key].argmax(1) == labels[key]).float().mean().item() for key in labels}
        rows.append((f"{name}: attribute accuracy", sum(right.values()) / len(right)))
        rows += [(f"{name}: {key}", value) for key, value in right.items()]
    return rows


def measure_identity() -> list[tuple[str, float]]:
    """How well the identity networks know people apart."""
    rows = []
    heldout = load_data("heldout")
    for which, name in (("guidance", "guidance identity network"), ("evaluation", "held-out identity network")):
        result = verification(embed(load_network(which), heldout["images"]), heldout["identity"])
        rows.append((f"{name}: verification accuracy", result["accuracy"]))
        rows.append((f"{name}: similarity of two pictures of a person", result["same"]))
        rows.append((f"{name}: similarity of two people", result["different"]))
    return rows


def measure_segmentation() -> list[tuple[str, float]]:
    """How well the segmentation networks see what the renderer drew where, in renders and behind the autoencoder."""
    rows = []
    images, labels = load_data("heldout")["images"], load_labels("heldout")
    vae = load_vae()
    with torch.no_grad():
        decoded = [
            vae.decode(vae.encode(as_float(x) * 2 - 1).latent_dist.mode()).sample for x in images[::3].split(100)
        ]
    through = ((torch.cat(decoded) / 2 + 0.5).clamp(0, 1) * 255).round().byte()
    for which, name in (("guidance", "guidance segmentation network"), ("evaluation", "held-out segmentation network")):
        network = segmenter.load_network(which)
        result = segmenter.intersection_over_union(network, images, labels)
        rows.append((f"{name}: mean IoU", result.pop("mean")))
        rows += [(f"{name}: IoU of {key}", value) for key, value in result.items()]
        behind = segmenter.intersection_over_union(network, through, labels[::3])
        rows.append((f"{name}: mean IoU behind the autoencoder", behind["mean"]))
    return rows


def measure_subject() -> list[tuple[str, float]]:
    """What features learnt without labels know of people, beside those of the same network with random weights."""
    heldout = load_data("heldout")
    torch.manual_seed(0)
    random_weights = self_supervised.build().eval()
    trained = AutoModel.from_pretrained(self_supervised.FOLDER, dtype=torch.float32).eval()
    rows = []
    for network, name in ((trained, "subject network"), (random_weights, "subject network with random weights")):
        rows += [(f"{name}: {key}", value) for key, value in self_supervised.measure(network, heldout).items()]
    return rows


def measure_style() -> list[tuple[str, float]]:
    """How often the picture of the nearest style, of other people, is of the same one of all styles."""
    images = load_data("heldout")["images"]
    torch.manual_seed(0)
    networks = {
        "guidance style network": ("guidance", load_style_features(style.FOLDERS["guidance"])),
        "guidance style network with random weights": ("guidance", style.build("guidance")["network"].eval()),
        "held-out style network": ("evaluation", load_recogniser(style.FOLDERS["evaluation"]).eval()),
    }
    rows = []
    for name, (which, network) in networks.items():
        for key, value in style.measure(which, network, images, count=40).items():
            known = key.replace("trained styles", f"{len(STYLES)} trained styles").replace(
                "held-out styles", f"{len(HELD_OUT)} other styles"
            )
            rows.append((f"{name}: {known}", value))
    return rows


PARTS = {
    "autoencoder": measure_autoencoder,
    "attributes": measure_attributes,
    "generators": measure_generators,
    "identity": measure_identity,
    "segmentation": measure_segmentation,
    "subject": measure_subject,
    "style": measure_style,
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all by default")
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    path = DATA / "evaluation.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    for part in parts:
        rows.update(PARTS[part]())
        path.write_text(json.dumps(rows, indent=1))
    write_table(rows)


def write_table(rows: dict[str, float]) -> None:
    """Into the README, with what training took."""
    hours, steps = {}, {}
    for path in DATA.glob("*.pt"):
        if not path.stem.startswith(("latents", "pairs", "decoded")):
            saved = torch.load(path, weights_only=True)
            hours[path.stem], steps[path.stem] = saved["seconds"] / 3600, saved["step"]
    lines = ["| measure | value | bar |", "|---|---|---|"]
    for name, value in rows.items():
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
    readme = HERE / "README.md"
    pattern = r"(<!-- results -->\n).*(<!-- end -->)"
    readme.write_text(re.sub(pattern, lambda m: m[1] + text + "\n" + m[2], readme.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
