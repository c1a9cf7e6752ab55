"""Measures every network of this world on people and prompts that none was trained on, and writes the README's table.

    python tools/avatars/evaluate.py                         # everything
    python tools/avatars/evaluate.py segmentation identity   # only these; the other rows stay

Also draws a random grid of 64 samples of every generator: look at them.
"""

from __future__ import annotations

import argparse
import collections
import json
from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForImageClassification

import guideflow as gf
import prompts
import segmenter
import self_supervised
import style
import world
from autoencoder import FACE, psnr, reconstruct
from common import BASE, DATA, DEVICE, WEIGHTS, as_float, load_data, save_sheet
from guideflow_avatars.identity import load_recogniser
from guideflow_avatars.style import load_style_features
from labels import load_labels
from recognisers import FOLDERS, attribute_accuracy, embed, verification
from styles import HELD_OUT, STYLES
from table import GENERATORS, write_table
from teacher import load_vae, sample_teacher

SAMPLES = 256


def load_network(which: str) -> torch.nn.Module:
    """A recogniser in float32, on the device."""
    return AutoModelForImageClassification.from_pretrained(FOLDERS[which], dtype=torch.float32).to(DEVICE).eval()


def as_bytes(x: Tensor) -> Tensor:
    """[0, 1] -> uint8."""
    return (x.clamp(0, 1) * 255).round().byte()


@torch.no_grad()
def sample(which: str, texts: Sequence[str], sheet: str = "samples") -> Tensor:
    """Pictures of the teacher or of a family's student for some prompts; the first 64 also as a picture file."""
    sampler = gf.load_sampler("avatars-perflow" if which == "teacher" else f"avatars-{which}", device=DEVICE.type)
    noise = torch.randn(len(texts), *sampler.latent_shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    if which == "teacher":
        teacher = UNet2DConditionModel.from_pretrained(BASE / "unet", torch_dtype=torch.float32).to(DEVICE).eval()
    pictures = []
    for rows in torch.arange(len(texts)).split(64):
        condition, z = sampler.condition([texts[i] for i in rows]), noise[rows.to(DEVICE)]
        if which == "teacher":
            z = sample_teacher(teacher, condition.text, sampler.condition([""]).text, z)
        else:
            z = sampler.prepare(z)
            for k in range(sampler.num_steps):
                z = sampler.step(k, z, condition)
        pictures.append(sampler.decode(z))
    found = torch.cat(pictures).float()
    print(save_sheet(found[:64], DATA / "sheets" / f"{sheet}-{which}.png", 16), flush=True)
    return found


def measure_autoencoder() -> list[tuple[str, float]]:
    """How well pictures survive, faces of dark and pale skin above all; a sheet of them as a picture file."""
    heldout = load_data("heldout")
    images = heldout["images"]
    x, through = as_float(images), as_bytes(reconstruct(load_vae(), images))
    y = as_float(through)
    pairs = torch.stack([x[::60][:32], y[::60][:32]], 1).flatten(0, 1)
    print(save_sheet(pairs, DATA / "sheets" / "samples-autoencoder.png", 16), flush=True)
    face = psnr(x[..., FACE[0], FACE[1]], y[..., FACE[0], FACE[1]])
    rows = [("autoencoder, PSNR on held-out renders (dB)", psnr(x, y).mean().item())]
    for number, skin in enumerate(world.LABELS["skin"]):
        rows.append((f"autoencoder, PSNR in the face, {skin} skin (dB)", face[heldout["skin"] == number].mean().item()))
    judge = load_network("evaluation")
    cosine = F.cosine_similarity(embed(judge, images), embed(judge, through))
    rows.append(("autoencoder, judge's cosine of render and reconstruction", cosine.mean().item()))
    attributes = load_network("attributes")
    before, after = (attribute_accuracy(embed(attributes, z), heldout)["expression"] for z in (images, through))
    rows.append(("autoencoder, expressions misread only in the reconstruction (share)", before - after))
    return rows


def measure_attributes() -> list[tuple[str, float]]:
    """How well the attribute classifier reads renders."""
    heldout = load_data("heldout")
    result = attribute_accuracy(embed(load_network("attributes"), heldout["images"]), heldout)
    return [(f"attribute classifier on held-out renders: {key}", value) for key, value in result.items()]


def obeyed(pictures: Tensor, asked: list[dict[str, str]]) -> dict[str, float]:
    """Share of the words asked for that the attribute classifier sees, of each attribute and of all."""
    sizes = [len(words) for words in world.LABELS.values()]
    parts = embed(load_network("attributes"), as_bytes(pictures)).split(sizes, dim=1)
    seen = {key: part.argmax(1).tolist() for key, part in zip(world.LABELS, parts, strict=True)}
    right = collections.defaultdict(list)
    for row, words in enumerate(asked):
        for key, word in words.items():
            right[key].append(world.LABELS[key][seen[key][row]] == word)
    found = {key: sum(right[key]) / len(right[key]) for key in world.LABELS if key in right}
    return found | {"all": sum(map(sum, right.values())) / sum(map(len, right.values()))}


def generators() -> dict[str, str]:
    """Those that have weights."""
    return {key: name for key, name in GENERATORS.items() if key == "teacher" or (WEIGHTS / key).exists()}


def measure_generators() -> list[tuple[str, float]]:
    """How far pictures obey their prompts."""
    rows = []
    texts, asked = zip(*prompts.held_out(SAMPLES), strict=True)
    for which, name in generators().items():
        right = obeyed(sample(which, texts), asked)
        rows.append((f"{name}: attribute accuracy", sum(right[key] for key in prompts.MAIN) / len(prompts.MAIN)))
        rows += [(f"{name}: {key}", value) for key, value in right.items() if key != "all"]
    return rows


def measure_prompts() -> list[tuple[str, float]]:
    """How far pictures obey prompts as people write them, and how far words that mean nothing here mislead them."""
    rows, each = [], collections.defaultdict(list)
    plain, typed = prompts.held_out(SAMPLES), [*prompts.TYPED] * 4
    for which, name in generators().items():
        if which == "teacher":
            continue
        found = [
            obeyed(sample(which, [text for text, _ in asked], sheet), [words for _, words in asked])
            for asked, sheet in ((typed, "typed"), (plain, "plain"), (prompts.with_unknown(plain), "unknown"))
        ]
        rows.append((f"{name}: {len(prompts.TYPED)} typed prompts", found[0].pop("all")))
        rows.append((f"{name}: lost by unknown words (share)", found[1]["all"] - found[2]["all"]))
        for key, value in found[0].items():
            each[key].append(value)
    return rows + [(f"typed prompts, all students: {key}", sum(v) / len(v)) for key, v in each.items()]


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
    through = as_bytes(reconstruct(load_vae(), images[::3]))
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
    random_weights = self_supervised.build().to(DEVICE).eval()
    trained = AutoModel.from_pretrained(self_supervised.FOLDER, dtype=torch.float32).to(DEVICE).eval()
    rows = []
    for network, name in ((trained, "subject network"), (random_weights, "subject network with random weights")):
        rows += [(f"{name}: {key}", value) for key, value in self_supervised.measure(network, heldout).items()]
    return rows


def measure_style() -> list[tuple[str, float]]:
    """How often the picture of the nearest style, of other people, is of the same one of all styles."""
    images = load_data("heldout")["images"]
    torch.manual_seed(0)
    networks = {
        "guidance style network": ("guidance", load_style_features(style.FOLDERS["guidance"]).to(DEVICE)),
        "guidance style network with random weights": ("guidance", style.build("guidance")["network"].eval()),
        "held-out style network": ("evaluation", load_recogniser(style.FOLDERS["evaluation"]).to(DEVICE).eval()),
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
    "prompts": measure_prompts,
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


if __name__ == "__main__":
    main()
