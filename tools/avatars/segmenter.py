"""Trains the networks that see the layout of a picture, from what the renderer knows (labels.py).

    python tools/avatars/segmenter.py guidance      # U-Net, people of the guidance identity network: the loss
    python tools/avatars/segmenter.py evaluation    # U-Net++, people of the other one, another seed: the judge

Half of the pictures have been through the autoencoder, since those that the loss sees come out of its decoder.
"""

from __future__ import annotations

import argparse
import copy
import json
import os

import numpy
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import world
from common import DATA, DEVICE, SIZE, WEIGHTS, as_float, autocast, load_data, save_half, step_generator, train
from labels import NAMES, load_labels
from recognisers import affine, blur, harden, uniform
from teacher import load_vae

BATCH = 64 if DEVICE.type == "cuda" else 32
STEPS = {"guidance": 3000, "evaluation": 3000}
SEEDS = {"guidance": 14, "evaluation": 15}
FOLDERS = {"guidance": WEIGHTS / "segmentation", "evaluation": WEIGHTS / "evaluation" / "segmentation"}
SMOOTHING = 0.02
DICE = 0.5
PREPROCESSING = {
    "do_resize": True,
    "size": {"height": SIZE, "width": SIZE},
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
    """What a network sees in pictures (B, 3, H, W) in [0, 1]: (B, classes, H, W)."""
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

    def draw(low: float, high: float) -> Tensor:
        return uniform(x, generator, low, high).flatten()

    angle, zoom, dx, dy = draw(-0.25, 0.25), draw(0.8, 1.2), draw(-0.25, 0.25), draw(-0.2, 0.2)
    grid = affine(angle, zoom, (draw(0, 1) < 0.5) * 2.0 - 1, dx, dy, x.shape)
    moved = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    maps = F.grid_sample(labels[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    still = draw(0, 1) < 0.3  # exactly as drawn: every resampled picture is a little blurred
    return x.where(still.view(-1, 1, 1, 1), moved), labels.where(still.view(-1, 1, 1), maps[:, 0].long())


def spoil(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, noise, exposure and tint: what a generator's pictures have that renders do not."""

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        return uniform(x, generator, low, high, channels)

    blurred = blur(x)
    blurred = blur(blurred).where(draw(0, 1) < 0.5, blurred)
    x = torch.lerp(x, blurred, draw(0, 1) * (draw(0, 1) < 0.4))
    x = x * draw(0.9, 1.1, 3) + draw(-0.05, 0.05, 3)
    return (x + draw(0, 0.06) * torch.randn(x.shape, generator=generator, device=x.device)).clamp(0, 1)


@torch.no_grad()
def load_decoded(count: int) -> Tensor:
    """The first training pictures through the autoencoder, latents up to 0.3 off, uint8; cached on disk."""
    path = DATA / "train" / f"decoded-{count}.npy"
    if not path.exists():
        vae, generator, decoded = load_vae(), step_generator(16, 0), []
        for x in load_data("train")["images"][:count].split(100):
            z = vae.encode(as_float(x) * 2 - 1).latent_dist.mode()
            off = uniform(z, generator, 0, 0.3) * torch.randn(z.shape, generator=generator, device=DEVICE)
            picture = vae.decode(z + off / vae.config.scaling_factor).sample / 2 + 0.5
            decoded.append((picture.clamp(0, 1) * 255).round().byte().cpu())
        own = path.with_suffix(f".{os.getpid()}.npy")  # guide and judge may be trained side by side
        numpy.save(own, torch.cat(decoded).numpy())
        own.replace(path)
    return torch.from_numpy(numpy.load(path)).to(DEVICE)


@torch.no_grad()
def intersection_over_union(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """IoU of each class over all pixels of uint8 pictures, and their mean."""
    confusion = torch.zeros(len(NAMES), len(NAMES), dtype=torch.long, device=images.device)
    for x, y in zip(images.split(200), labels.split(200), strict=True):
        seen = logits(network, as_float(x)).argmax(1)
        confusion += torch.bincount(y.long().flatten() * len(NAMES) + seen.flatten(), minlength=confusion.numel()).view(
            len(NAMES), len(NAMES)
        )
    both = confusion.diagonal()
    each = both / (confusion.sum(0) + confusion.sum(1) - both)
    return {"mean": each.mean().item(), **dict(zip(NAMES, each.tolist(), strict=True))}


def load_network(which: str) -> nn.Module:
    """A trained network from its folder, in float32, on the device."""
    network = smp.from_pretrained(str(FOLDERS[which]), encoder_weights=None)
    return network.to(DEVICE, memory_format=torch.channels_last).eval().requires_grad_(False)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=tuple(FOLDERS))
    parser.add_argument("--steps", type=int, help="of training, at most")
    options = parser.parse_args()
    which, seed = options.which, SEEDS[options.which]
    torch.manual_seed(seed)
    data, heldout = load_data("train"), load_data("heldout")
    labels, heldout_labels = load_labels("train"), load_labels("heldout")
    images, decoded = data["images"], load_decoded(len(labels))
    people = torch.tensor(world.IDENTITIES_OF[which], device=DEVICE)
    rows = torch.isin(data["identity"][: len(labels)], people).nonzero()[:, 0]
    network = build(which).to(DEVICE, memory_format=torch.channels_last)
    through = (torch.arange(BATCH, device=DEVICE) // 2 % 2 == 0).view(-1, 1, 1, 1)

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(seed, step)
        chosen = rows[torch.randint(len(rows), (BATCH,), generator=generator, device=DEVICE)]
        pictures = as_float(decoded[chosen].where(through, images[chosen]))
        x, y = move(pictures, labels[chosen].long(), generator)
        x = spoil(x, generator)

        def loss(x: Tensor, y: Tensor) -> Tensor:
            with autocast():
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
        report_every=500,
    )
    shipped = copy.deepcopy(averaged["network"])
    save(which, shipped)
    print(report({"network": shipped}, 0), "after rounding to float16")


if __name__ == "__main__":
    main()
