"""Trains the networks that see the layout of a picture, from what the renderer knows (labels.py).

    python tools/avatars/segmenter.py guidance      # U-Net, people of the guidance identity network: the loss
    python tools/avatars/segmenter.py evaluation    # U-Net++, people of the other one, another seed: the judge

Half of the pictures have been through the autoencoder, since those that the loss sees come out of its decoder.
"""

from __future__ import annotations

import argparse
import copy
import json

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import world
from common import DATA, WEIGHTS, as_float, load_data, save_half, step_generator, train
from labels import NAMES, load_labels
from recognisers import harden
from teacher import load_latents, load_vae

BATCH = 32
STEPS = {"guidance": 1500, "evaluation": 450}
SEEDS = {"guidance": 14, "evaluation": 15}
FOLDERS = {"guidance": WEIGHTS / "segmentation", "evaluation": WEIGHTS / "evaluation" / "segmentation"}
SMOOTHING = 0.02
DICE = 0.5
PREPROCESSING = {
    "do_resize": True,
    "size": {"height": 64, "width": 64},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def build(which: str) -> nn.Module:
    """Half a million parameters that guide, a tenth of a million that judge; no pretrained weights."""
    if which == "guidance":
        return smp.Unet(
            "tu-resnet10t", encoder_weights=None, encoder_depth=3, decoder_channels=(64, 32, 16), classes=len(NAMES)
        )
    return smp.UnetPlusPlus(
        "tu-regnetx_002", encoder_weights=None, encoder_depth=3, decoder_channels=(32, 24, 16), classes=len(NAMES)
    )


def save(which: str, network: nn.Module) -> None:
    """Write the folder that the loss `segmentation` reads."""
    folder = FOLDERS[which]
    save_half(network, folder)
    (folder / "README.md").unlink(missing_ok=True)  # an empty model card
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING, indent=1) + "\n")
    (folder / "id2label.json").write_text(json.dumps(dict(enumerate(NAMES)), indent=1) + "\n")


def logits(network: nn.Module, x: Tensor) -> Tensor:
    """What a network sees in pictures (B, 3, 64, 64) in [0, 1]: (B, classes, 64, 64)."""
    return network((x * 2 - 1).contiguous(memory_format=torch.channels_last))


def error(output: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy and DICE times the soft Dice distance of the classes that are there, one per picture."""
    each = F.cross_entropy(output, labels, reduction="none", label_smoothing=SMOOTHING).mean((1, 2))
    wanted = F.one_hot(labels, len(NAMES)).movedim(-1, 1).float()
    seen = output.softmax(1)
    overlap = 2 * (seen * wanted).sum((2, 3)) / ((seen + wanted).sum((2, 3)) + 1)
    there = wanted.sum((2, 3)) > 0
    return each + DICE * ((1 - overlap) * there).sum(1) / there.sum(1)


def move(x: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror, shift, zoom and turn pictures and maps alike: a layout may be drawn where no portrait has been."""
    n = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    angle, zoom = uniform(-0.25, 0.25), uniform(0.8, 1.2)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    rows = [cos * mirror, -sin, uniform(-0.25, 0.25), sin * mirror, cos, uniform(-0.2, 0.2)]
    grid = F.affine_grid(torch.stack(rows, 1).view(n, 2, 3), list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    maps = F.grid_sample(labels[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    still = uniform(0, 1) < 0.3  # exactly as drawn: every resampled picture is a little blurred
    return moved.where(~still.view(-1, 1, 1, 1), x), maps[:, 0].long().where(~still.view(-1, 1, 1), labels)


def spoil(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, noise, exposure and tint: what a generator's pictures have that renders do not."""
    n = len(x)

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(n, channels, 1, 1, generator=generator)

    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blurred, uniform(0, 1) * (uniform(0, 1) < 0.4))
    x = x * uniform(0.9, 1.1, 3) + uniform(-0.05, 0.05, 3)
    return (x + uniform(0, 0.06) * torch.randn(x.shape, generator=generator)).clamp(0, 1)


@torch.no_grad()
def load_decoded(count: int) -> Tensor:
    """The first training pictures through the autoencoder, latents up to 0.3 off, uint8; cached on disk."""
    path = DATA / "decoded-train.pt"
    if not path.exists():
        vae = load_vae()
        generator = torch.Generator().manual_seed(16)
        decoded = []
        for z in load_latents("train")[:count].split(100):
            z = z + 0.3 * torch.rand(len(z), 1, 1, 1, generator=generator) * torch.randn(z.shape, generator=generator)
            picture = vae.decode(z / vae.config.scaling_factor).sample / 2 + 0.5
            decoded.append((picture.clamp(0, 1) * 255).round().byte())
        torch.save(torch.cat(decoded), path)
    return torch.load(path, weights_only=True)[:count]


@torch.no_grad()
def intersection_over_union(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """IoU of each class over all pixels of uint8 pictures, and their mean."""
    confusion = torch.zeros(len(NAMES), len(NAMES), dtype=torch.long)
    for x, y in zip(images.split(200), labels.split(200), strict=True):
        seen = logits(network, as_float(x)).argmax(1)
        confusion += torch.bincount(y.long().flatten() * len(NAMES) + seen.flatten(), minlength=confusion.numel()).view(
            len(NAMES), len(NAMES)
        )
    both = confusion.diagonal()
    each = both / (confusion.sum(0) + confusion.sum(1) - both)
    return {"mean": each.mean().item(), **dict(zip(NAMES, each.tolist(), strict=True))}


def load_network(which: str) -> nn.Module:
    """A trained network from its folder, in float32."""
    return smp.from_pretrained(str(FOLDERS[which]), encoder_weights=None).eval().requires_grad_(False)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=tuple(FOLDERS))
    parser.add_argument("--steps", type=int, help="of training; as shipped by default")
    options = parser.parse_args()
    which, seed = options.which, SEEDS[options.which]
    torch.manual_seed(seed)
    data, heldout = load_data("train"), load_data("heldout")
    labels, heldout_labels = load_labels("train"), load_labels("heldout")
    images = torch.stack([data["images"][: len(labels)], load_decoded(len(labels))])
    people = torch.tensor(world.IDENTITIES_OF[which])
    rows = torch.isin(data["identity"][: len(labels)], people).nonzero()[:, 0]
    network = build(which).to(memory_format=torch.channels_last)

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(seed, step)
        chosen = rows[torch.randint(len(rows), (BATCH,), generator=generator)]
        kind = torch.arange(BATCH) // 2 % 2
        x, y = move(as_float(images[kind, chosen]), labels[chosen].long(), generator)
        x = spoil(x, generator)

        def loss(x: Tensor, y: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                output = logits(network, x)
            return error(output.float(), y)

        if which == "guidance":  # half of them, for the sake of its gradients; the judge gives none
            half = slice(BATCH // 2)
            x = torch.cat([harden(x[half], lambda x: loss(x, y[half]).sum(), generator), x[BATCH // 2 :]])
        return loss(x, y).mean()

    def report(averaged: dict[str, nn.Module], _: int) -> str:
        result = intersection_over_union(averaged["network"], heldout["images"][::3], heldout_labels[::3])
        return "held-out IoU " + ", ".join(f"{key} {value:.3f}" for key, value in result.items())

    averaged = train(
        f"segmenter-{which}",
        {"network": network},
        loss_of_step,
        steps=options.steps or STEPS[which],
        learning_rate=3e-3,
        warmup=50,
        ema=0.99,
        weight_decay=1e-2,
        report=report,
        report_every=250,
    )
    shipped = copy.deepcopy(averaged["network"])
    save(which, shipped)
    print(report({"network": shipped}, 0), "after rounding to float16")


if __name__ == "__main__":
    main()
