"""Trains the recognisers: two identity networks and the attribute classifier.

    python tools/avatars/recognisers.py guidance      # ResNet, half of the training identities: the loss
    python tools/avatars/recognisers.py evaluation    # ConvNeXt, the other half, another seed: the judge
    python tools/avatars/recognisers.py attributes    # ResNet, attributes of `world.LABELS`: prompt consistency

Identity networks learn with an additive angular margin (ArcFace, Deng et al., 2019); their "logits" are the embedding.
The one that guides also sees blends of people and adversarial pictures, for the sake of its gradients.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ConvNextConfig, ConvNextForImageClassification, ResNetConfig, ResNetForImageClassification

import world
from common import DEVICE, WEIGHTS, as_float, autocast, load_data, save_half, step_generator, train

BATCH = 256 if DEVICE.type == "cuda" else 96
STEPS = {"guidance": 4000, "evaluation": 4000, "attributes": 3000}
SEEDS = {"guidance": 5, "evaluation": 6, "attributes": 7}
FOLDERS = {
    "guidance": WEIGHTS / "identity",
    "evaluation": WEIGHTS / "evaluation" / "identity",
    "attributes": WEIGHTS / "evaluation" / "attributes",
}
EMBEDDING = 128
MARGIN, SCALE = 0.3, 20.0
RADIUS = 6.0


def build(which: str) -> nn.Module:
    """Networks for 128x128 pictures in [0, 1] shifted to [-1, 1], in transformers' layouts."""
    if which == "evaluation":
        config = ConvNextConfig(
            patch_size=4, num_stages=4, hidden_sizes=[32, 64, 128, 192], depths=[2, 2, 2, 2], num_labels=EMBEDDING
        )
        return ConvNextForImageClassification(config)
    sizes = {"guidance": [32, 64, 128, 192], "attributes": [32, 64, 96, 128]}[which]
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=sizes,
        depths=[1, 1, 1, 1],
        layer_type="basic",
        downsample_in_first_stage=which == "guidance",  # whose gradients every solver pays for
        num_labels=EMBEDDING,
    )
    if which == "attributes":
        names = [f"{key}:{word}" for key, words in world.LABELS.items() for word in words]
        config.id2label = dict(enumerate(names))
        config.label2id = {name: i for i, name in enumerate(names)}
    return ResNetForImageClassification(config)


def uniform(x: Tensor, generator: torch.Generator, low: float, high: float, channels: int = 1) -> Tensor:
    """Random numbers (B, channels, 1, 1), for each picture its own."""
    return low + (high - low) * torch.rand(len(x), channels, 1, 1, generator=generator, device=x.device)


def shift(x: Tensor, generator: torch.Generator, pixels: int) -> Tensor:
    """Mirror half of the pictures and move each by whole pixels, up to so many, so that none is blurred."""
    n, channels, height, width = x.shape
    dy, dx = torch.randint(-pixels, pixels + 1, (2, n, 1), generator=generator, device=x.device)
    rows, columns = (torch.arange(side, device=x.device) for side in (height, width))
    rows, columns = (rows + dy).clamp(0, height - 1), (columns + dx).clamp(0, width - 1)
    columns = columns.where(uniform(x, generator, 0, 1).view(n, 1) < 0.5, width - 1 - columns)
    index = torch.arange(n, device=x.device).view(n, 1, 1, 1), torch.arange(channels, device=x.device).view(-1, 1, 1)
    return x[(*index, rows.view(n, 1, height, 1), columns.view(n, 1, 1, width))]


def affine(angle: Tensor, zoom: Tensor, mirror: Tensor | float, dx: Tensor, dy: Tensor, size: torch.Size) -> Tensor:
    """Grid of `grid_sample` that turns (radians), shrinks, mirrors (-1) and moves (half widths); all arguments (B,)."""
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    theta = torch.stack([cos * mirror, -sin, dx, sin * mirror, cos, dy], 1).view(-1, 2, 3)
    return F.affine_grid(theta, list(size), align_corners=False)


def blur(x: Tensor) -> Tensor:
    """Mean over 3x3 pixels."""
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)


def augment(x: Tensor, generator: torch.Generator, *, colour: float) -> Tensor:
    """Mirror image, place and size; blur, tint, blotches and noise: what a generator's pictures have, renders not."""

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        return uniform(x, generator, low, high, channels)

    x = shift(x, generator, 6)
    angle, zoom, dx, dy = (draw(-1, 1).flatten() for _ in range(4))
    grid = affine(angle * math.radians(4), 1 + 0.07 * zoom, 1, 0.05 * dx, 0.05 * dy, x.shape)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False).where(draw(0, 1) < 0.5, x)
    blurred = blur(x)
    blurred = blur(blurred).where(draw(0, 1) < 0.5, blurred)
    x = torch.lerp(x, blurred, draw(0, 1) * (draw(0, 1) < 0.6))
    x = x * (1 + colour * draw(-0.06, 0.06)) + colour * (draw(-0.03, 0.03) + draw(-0.02, 0.02, 3))
    blotches = torch.randn(len(x), 3, 16, 16, generator=generator, device=x.device)
    x = x + colour * draw(0, 0.04) * F.interpolate(blotches, x.shape[2:], mode="bilinear")
    return (x + draw(0, 0.06) * torch.randn(x.shape, generator=generator, device=x.device)).clamp(0, 1)


def arcface(embedding: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of SCALE cos(angle + MARGIN for the true identity), one per picture."""
    cosine = (F.normalize(embedding) @ F.normalize(centres).T).clamp(-1 + 1e-6, 1 - 1e-6)
    true = F.one_hot(labels, len(centres)).bool()
    return F.cross_entropy(SCALE * torch.cos(cosine.acos() + MARGIN * true), labels, reduction="none")


def harden(x: Tensor, loss: Callable[[Tensor], Tensor], generator: torch.Generator, steps: int = 1) -> Tensor:
    """Move pictures against their labels, by up to RADIUS in Euclidean norm (adversarial training; Madry et al., 2018).

    The gradients of a network that withstands this point at what a person would change in a picture. Those of a plain
    one point at noise, and a solver that follows them finds pictures that fool the network and nobody else.
    """

    def unit(direction: Tensor) -> Tensor:
        return direction / direction.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)

    radius = uniform(x, generator, 0, RADIUS)
    point = x + radius / 2 * unit(torch.randn(x.shape, generator=generator, device=x.device))
    direction = torch.zeros_like(x)
    for _ in range(steps):
        point.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(point), point)
        direction = direction + unit(gradient)
        point = (x + radius * unit(direction)).clamp(0, 1).detach()
    return point


def embed(network: nn.Module, images: Tensor) -> Tensor:
    """Outputs for uint8 pictures, without gradient."""
    with torch.no_grad():
        return torch.cat([network(as_float(batch) * 2 - 1).logits for batch in images.split(250)])


def verification(embedding: Tensor, identity: Tensor) -> dict[str, float]:
    """Similarity of same and different pairs; accuracy at a threshold chosen on the other half of the identities."""
    embedding, identity = F.normalize(embedding).cpu(), identity.cpu()
    generator = torch.Generator().manual_seed(0)
    i, j = torch.triu_indices(len(identity), len(identity), 1)
    same = identity[i] == identity[j]
    different = (~same).nonzero()[:, 0]
    different = different[torch.randperm(len(different), generator=generator)[: int(same.sum())]]
    pairs = torch.cat([same.nonzero()[:, 0], different])
    similarity = (embedding[i[pairs]] * embedding[j[pairs]]).sum(1)
    label, half = same[pairs], identity[i[pairs]] % 2 == 0
    accuracies = []
    for fit, test in ((half, ~half), (~half, half)):
        thresholds = similarity[fit].sort().values[:: max(1, int(fit.sum()) // 500)]
        scores = [((similarity[fit] > t) == label[fit]).float().mean() for t in thresholds]
        best = thresholds[int(torch.stack(scores).argmax())]
        accuracies.append(((similarity[test] > best) == label[test]).float().mean().item())
    return {
        "accuracy": sum(accuracies) / 2,
        "same": similarity[label].mean().item(),
        "different": similarity[~label].mean().item(),
    }


def attribute_accuracy(logits: Tensor, data: dict) -> dict[str, float]:
    """Share of right answers for each attribute of `data`, (B,) each."""
    parts = dict(zip(world.LABELS, logits.split([len(words) for words in world.LABELS.values()], dim=1), strict=True))
    return {key: (part.argmax(1) == data[key]).float().mean().item() for key, part in parts.items() if key in data}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=tuple(FOLDERS))
    parser.add_argument("--steps", type=int, help="of training, at most")
    options = parser.parse_args()
    which, seed = options.which, SEEDS[options.which]
    torch.manual_seed(seed)
    data, heldout = load_data("train"), load_data("heldout")
    images, rows = data["images"], torch.arange(len(data["identity"]), device=DEVICE)
    modules = {"network": build(which).to(DEVICE, memory_format=torch.channels_last)}
    if which != "attributes":
        identities = torch.tensor(world.IDENTITIES_OF[which], device=DEVICE)
        rows = torch.isin(data["identity"], identities).nonzero()[:, 0]
        targets = torch.searchsorted(identities, data["identity"][rows])
        modules["centres"] = nn.Linear(EMBEDDING, len(identities), bias=False).to(DEVICE)

    def forward(x: Tensor) -> Tensor:
        with autocast():
            return modules["network"]((x * 2 - 1).contiguous(memory_format=torch.channels_last)).logits.float()

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(seed, step)
        chosen = torch.randint(len(rows), (BATCH,), generator=generator, device=DEVICE)
        x = augment(as_float(images[rows[chosen]]), generator, colour=0.5 if which == "attributes" else 1.0)
        if which == "attributes":
            parts = forward(x).split([len(words) for words in world.LABELS.values()], dim=1)
            return sum(F.cross_entropy(part, data[key][chosen]) for key, part in zip(world.LABELS, parts, strict=True))
        centres = modules["centres"].weight
        if which == "evaluation":
            return arcface(forward(x), centres, targets[chosen]).mean()
        # Half of the pictures are blends of two people, answered for by both: similarity then changes all the way from
        # one person to another, where a network that only saw whole people is flat and gives a solver no direction.
        blends = torch.arange(BATCH, device=DEVICE) % 2 == 0
        share = uniform(x, generator, 0, 1).flatten().where(blends, 1.0)
        other = torch.randperm(BATCH, generator=generator, device=DEVICE)
        x = torch.lerp(x[other], x, share.view(-1, 1, 1, 1))
        mine, others = targets[chosen], targets[chosen[other]]

        def blended(y: Tensor, rows: slice) -> Tensor:
            output = forward(y)
            first, second = (arcface(output, centres, labels[rows]) for labels in (mine, others))
            return torch.lerp(second, first, share[rows])

        halves = (slice(BATCH // 2), 2), (slice(BATCH // 2, None), 1)  # adversarial by two steps, and by one
        hard = [harden(x[r], lambda y, r=r: blended(y, r).sum(), generator, steps) for r, steps in halves]
        return blended(torch.cat(hard), slice(None)).mean()

    def report(averaged: dict[str, nn.Module], _: int) -> str:
        output = embed(averaged["network"], heldout["images"])
        result = (
            attribute_accuracy(output, heldout) if which == "attributes" else verification(output, heldout["identity"])
        )
        return "held-out " + ", ".join(f"{key} {value:.3f}" for key, value in result.items())

    averaged = train(
        f"recogniser-{which}",
        modules,
        loss_of_step,
        steps=options.steps or STEPS[which],
        learning_rate=2e-3,
        ema=0.995,
        weight_decay=1e-2,
        report=report,
        report_every=1000,
    )
    save_half(averaged["network"], FOLDERS[which])
    print(report(averaged, 0), "after rounding to float16")


if __name__ == "__main__":
    main()
