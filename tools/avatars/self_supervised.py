"""Trains the network behind `avatars-subject`: a small vision transformer in DINOv2's layout, without any label.

    python tools/avatars/self_supervised.py

Two views of one portrait are to be near, views of different portraits far (InfoNCE; van den Oord et al., 2018, and
SimCLR; Chen et al., 2020). What views do not share is what the features forget: place, size, mirror image, background,
clothes. Colours stay but for the exposure, since colour of hair and skin is half of what a portrait shows. There is no
projection head: the cosine that is trained is the one that the loss uses.

Later on, batches are made of groups of look-alikes in blurred pixels (hard negatives; Robinson et al., 2021). Colours
do not tell these apart, so the shapes of hair and beard have to.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model

import world
from common import DEVICE, SIZE, WEIGHTS, as_float, autocast, load_data, save_half, step_generator, train
from recognisers import affine, blur, harden, uniform, verification

FOLDER = WEIGHTS / "subject"
BATCH = 256 if DEVICE.type == "cuda" else 64
STEPS, SEED = 5000, 21
MIXED, PLAIN = 300, 560  # steps before batches of look-alikes, and before adversarial views
POOL, ALIKE = 10 * BATCH, 8
TEMPERATURE = 0.1
MEAN, STD = (  # what `guideflow_subject` normalises by
    torch.tensor(values, device=DEVICE).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)
NEIGHBOURS = 10
IDENTITY = ("hair", "hair colour", "skin", "beard", "rear hair")  # the columns of `world.IDENTITIES`


def build() -> nn.Module:
    """A transformer of 64 patches of 16x16 pixels."""
    return Dinov2Model(
        Dinov2Config(
            image_size=SIZE, patch_size=16, hidden_size=96, num_hidden_layers=5, num_attention_heads=4, mlp_ratio=2
        )
    )


def describe(network: nn.Module, x: Tensor) -> Tensor:
    """Unit-norm features of pictures in [0, 1]."""
    return F.normalize(network((x - MEAN) / STD).pooler_output.float(), dim=1)


def repaint(x: Tensor, generator: torch.Generator) -> Tensor:
    """Give what has the colour of the upper corners another colour: the same portrait on another background."""
    corners = torch.cat([x[..., :4, :4], x[..., :4, -4:]], dim=3).mean((2, 3), keepdim=True)
    background = ((x - corners).abs().amax(1, keepdim=True) < 0.08).float()
    return torch.lerp(x, uniform(x, generator, 0, 1, 3), background)


def view(x: Tensor, generator: torch.Generator) -> Tensor:
    """One view of each portrait."""

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        return uniform(x, generator, low, high, channels)

    x = repaint(x, generator).where(draw(0, 1) < 0.8, x)
    rows = torch.arange(SIZE, device=x.device).view(-1, 1)
    covered = (rows > SIZE * draw(0.8, 0.95)) & (draw(0, 1) < 0.6)  # a piece of cloth
    x = draw(0, 1, 3).where(covered, x)
    angle, size = draw(-8, 8).flatten() * math.pi / 180, draw(0.65, 1.08).flatten()
    room = 0.7 * (1 - size).clamp(min=0.06)
    dx, dy = room * draw(-1, 1).flatten(), room * draw(-1, 1).flatten()
    grid = affine(angle, size, (draw(0, 1).flatten() < 0.5) * 2.0 - 1, dx, dy, x.shape)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    blurred = blur(x)
    blurred = blur(blurred).where(draw(0, 1) < 0.5, blurred)
    x = torch.lerp(x, blurred, draw(0, 1) * (draw(0, 1) < 0.5))
    x = x * draw(0.93, 1.07) + draw(-0.03, 0.03)
    return (x + draw(0, 0.06) * torch.randn(x.shape, generator=generator, device=x.device)).clamp(0, 1)


def info_nce(one: Tensor, other: Tensor) -> Tensor:
    """Cross-entropy of finding each picture's other view among all other views, one per picture of `one`."""
    logits = one @ torch.cat([other, one]).T / TEMPERATURE
    itself = F.pad(torch.eye(len(one), device=one.device), (len(one), 0)).bool()
    wanted = torch.arange(len(one), device=one.device)
    return F.cross_entropy(logits.masked_fill(itself, -1e4), wanted, reduction="none")


def look_alikes(blurred: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a batch of groups, each of a picture and those nearest to it in a random pool; indices (BATCH,)."""
    pool = torch.randperm(len(blurred), generator=generator, device=DEVICE)[:POOL]
    nearest = torch.cdist(blurred[pool[: BATCH // ALIKE]], blurred[pool]).argsort(1)[:, :ALIKE]
    return pool[nearest.flatten()]


@torch.no_grad()
def features(network: nn.Module, images: Tensor) -> Tensor:
    """Features of uint8 pictures."""
    return torch.cat([describe(network, as_float(batch)) for batch in images.split(250)])


def neighbours(embedding: Tensor, identity: Tensor) -> dict[str, float]:
    """How often the nearest other picture shows the same person, and the votes of ten others are right about them.

    The ten are the nearest of other people, so that nobody is recognised where a feature is to be.
    """
    embedding, identity = embedding.cpu(), identity.cpu()
    similarity = embedding @ embedding.T
    similarity.fill_diagonal_(-2)
    found = {"nearest is the same person": (identity[similarity.argmax(1)] == identity).float().mean().item()}
    others = similarity.masked_fill(identity[:, None] == identity, -2).topk(NEIGHBOURS, dim=1).indices
    people = [world.IDENTITIES[i] for i in identity.tolist()]
    for column, name in enumerate(IDENTITY):
        words = {word: i for i, word in enumerate(dict.fromkeys(person[column] for person in people))}
        labels = torch.tensor([words[person[column]] for person in people])
        votes = F.one_hot(labels[others], len(words)).sum(1).argmax(1)
        found[name] = (votes == labels).float().mean().item()
    return found


def measure(network: nn.Module, heldout: dict, count: int = 3000) -> dict[str, float]:
    """Verification and neighbours on the first pictures of held-out people."""
    embedding, identity = features(network, heldout["images"][:count]), heldout["identity"][:count]
    result = verification(embedding, identity)
    return {"verification accuracy": result["accuracy"], **neighbours(embedding, identity)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="of training, at most")
    options = parser.parse_args()
    torch.manual_seed(SEED)
    images, heldout = load_data("train")["images"], load_data("heldout")
    heads = images[:, :, 8:104, 16:112]
    blurred = torch.cat([F.avg_pool2d(as_float(batch), 16).flatten(1) for batch in heads.split(1000)])
    network = build().to(DEVICE)

    def forward(x: Tensor) -> Tensor:
        with autocast():
            return describe(network, x)

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(SEED, step)
        if step < MIXED:
            chosen = torch.randperm(len(images), generator=generator, device=DEVICE)[:BATCH]
        else:
            chosen = look_alikes(blurred, generator)
        x = as_float(images[chosen])
        one, other = view(x, generator), view(x, generator)
        if step >= PLAIN:  # half of one side is adversarial, for the sake of the gradients (see `recognisers.harden`)
            half = slice(BATCH // 2)
            with torch.no_grad():
                keys = forward(other)

            def far(y: Tensor) -> Tensor:
                wanted = torch.arange(len(y), device=DEVICE)
                return F.cross_entropy(forward(y) @ keys.T / TEMPERATURE, wanted, reduction="sum")

            one = torch.cat([harden(one[half], far, generator), one[BATCH // 2 :]])
        first, second = forward(torch.cat([one, other])).split(BATCH)
        return (info_nce(first, second).mean() + info_nce(second, first).mean()) / 2

    def report(averaged: dict[str, nn.Module], _: int) -> str:
        found = measure(averaged["network"], heldout, 600)
        return "held-out " + ", ".join(f"{key} {value:.3f}" for key, value in found.items())

    print("random weights:", report({"network": network.eval()}, 0), flush=True)
    network.train()
    averaged = train(
        "self-supervised",
        {"network": network},
        loss_of_step,
        steps=options.steps,
        learning_rate=2e-3,
        warmup=100,
        weight_decay=2e-2,
        ema=0.99,
        report=report,
        report_every=1000,
    )
    save_half(averaged["network"], FOLDER)
    print(report(averaged, 0), "after rounding to float16")


if __name__ == "__main__":
    main()
