"""Trains the recognisers: two identity networks and the attribute classifier.

    python tools/avatars/recognisers.py guidance      # ResNet, half of the training identities: the loss
    python tools/avatars/recognisers.py evaluation    # ConvNeXt, the other half, another seed: the judge
    python tools/avatars/recognisers.py attributes    # ResNet, attributes of `world.LABELS`: prompt consistency

Identity networks learn with an additive angular margin (ArcFace, Deng et al., 2019); their "logits" are the embedding.
The one that guides also sees blends of people and adversarial pictures, for the sake of its gradients.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ConvNextConfig, ConvNextForImageClassification, ResNetConfig, ResNetForImageClassification

import world
from common import WEIGHTS, as_float, load_data, save_half, step_generator, train

BATCH = 96
STEPS = {"guidance": 2200, "evaluation": 1500, "attributes": 1200}
SEEDS = {"guidance": 5, "evaluation": 6, "attributes": 7}
FOLDERS = {
    "guidance": WEIGHTS / "identity",
    "evaluation": WEIGHTS / "evaluation" / "identity",
    "attributes": WEIGHTS / "evaluation" / "attributes",
}
EMBEDDING = 128
MARGIN, SCALE = 0.3, 20.0
RADIUS = 3.0


def build(which: str) -> nn.Module:
    """Networks for 64x64 pictures in [0, 1] shifted to [-1, 1], in transformers' layouts."""
    if which == "evaluation":
        config = ConvNextConfig(
            patch_size=4, num_stages=3, hidden_sizes=[64, 128, 192], depths=[2, 2, 2], num_labels=EMBEDDING
        )
        return ConvNextForImageClassification(config)
    sizes = {"guidance": [32, 64, 128, 192], "attributes": [32, 64, 96, 128]}[which]
    config = ResNetConfig(
        embedding_size=32, hidden_sizes=sizes, depths=[1, 1, 1, 1], layer_type="basic", num_labels=EMBEDDING
    )
    if which == "attributes":
        names = [f"{key}:{word}" for key, words in world.LABELS.items() for word in words]
        config.id2label = dict(enumerate(names))
        config.label2id = {name: i for i, name in enumerate(names)}
    return ResNetForImageClassification(config)


def augment(x: Tensor, generator: torch.Generator, *, colour: bool) -> Tensor:
    """Flips, small shifts, blur, noise and exposure: what a generator's pictures have that renders do not."""
    n = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

    x = x.flip(-1).where(uniform(0, 1) < 0.5, x)
    dx, dy = torch.randint(-3, 4, (2,), generator=generator).tolist()
    x = F.pad(x, (3, 3, 3, 3), mode="replicate")[..., 3 + dy : 67 + dy, 3 + dx : 67 + dx]
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blurred, uniform(0, 1) * (uniform(0, 1) < 0.5))
    if colour:
        x = x * uniform(0.93, 1.07) + uniform(-0.03, 0.03)
    return (x + uniform(0, 0.06) * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def arcface(embedding: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of SCALE cos(angle + MARGIN for the true identity), one per picture."""
    cosine = (F.normalize(embedding) @ F.normalize(centres).T).clamp(-1 + 1e-6, 1 - 1e-6)
    true = F.one_hot(labels, len(centres)).bool()
    return F.cross_entropy(SCALE * torch.cos(cosine.acos() + MARGIN * true), labels, reduction="none")


def harden(x: Tensor, loss: Callable[[Tensor], Tensor], generator: torch.Generator) -> Tensor:
    """Move pictures against their labels, by up to RADIUS in Euclidean norm (adversarial training; Madry et al., 2018).

    The gradients of a network that withstands this point at what a person would change in a picture. Those of a plain
    one point at noise, and a solver that follows them finds pictures that fool the network and nobody else.
    """

    def unit(direction: Tensor) -> Tensor:
        return direction / direction.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)

    radius = RADIUS * torch.rand(len(x), 1, 1, 1, generator=generator)
    start = (x + radius / 2 * unit(torch.randn(x.shape, generator=generator))).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(start), start)
    return (x + radius * unit(gradient)).clamp(0, 1).detach()


def embed(network: nn.Module, images: Tensor) -> Tensor:
    """Outputs for uint8 pictures, without gradient."""
    with torch.no_grad():
        return torch.cat([network(as_float(batch) * 2 - 1).logits for batch in images.split(250)])


def verification(embedding: Tensor, identity: Tensor) -> dict[str, float]:
    """Similarity of same and different pairs; accuracy at a threshold chosen on the other half of the identities."""
    embedding = F.normalize(embedding)
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
    """Share of right answers for each attribute."""
    parts = logits.split([len(words) for words in world.LABELS.values()], dim=1)
    return {
        key: (part.argmax(1) == data[key]).float().mean().item() for key, part in zip(world.LABELS, parts, strict=True)
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=tuple(FOLDERS))
    parser.add_argument("--steps", type=int, help="of training; as shipped by default")
    options = parser.parse_args()
    which, seed = options.which, SEEDS[options.which]
    torch.manual_seed(seed)
    data, heldout = load_data("train"), load_data("heldout")
    rows = torch.arange(len(data["identity"]))
    modules = {"network": build(which)}
    if which != "attributes":
        identities = torch.tensor(world.IDENTITIES_OF[which])
        rows = torch.isin(data["identity"], identities).nonzero()[:, 0]
        targets = torch.searchsorted(identities, data["identity"][rows])
        modules["centres"] = nn.Linear(EMBEDDING, len(identities), bias=False)
    images = data["images"][rows]

    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return modules["network"](x * 2 - 1).logits.float()

    def loss_of_step(step: int) -> Tensor:
        generator = step_generator(seed, step)
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        x = augment(as_float(images[chosen]), generator, colour=which != "attributes")
        if which == "attributes":
            parts = forward(x).split([len(words) for words in world.LABELS.values()], dim=1)
            return sum(F.cross_entropy(part, data[key][chosen]) for key, part in zip(world.LABELS, parts, strict=True))
        centres = modules["centres"].weight
        if which == "evaluation":
            return arcface(forward(x), centres, targets[chosen]).mean()
        # Half of the pictures are blends of two people, answered for by both: similarity then changes all the way from
        # one person to another, where a network that only saw whole people is flat and gives a solver no direction.
        share = torch.rand(BATCH, generator=generator).where(torch.arange(BATCH) % 2 == 0, torch.ones(BATCH))
        other = torch.randperm(BATCH, generator=generator)

        def blended(y: Tensor) -> Tensor:
            output = forward(y)
            first, second = (arcface(output, centres, targets[rows]) for rows in (chosen, chosen[other]))
            return torch.lerp(second, first, share)

        x = torch.lerp(x[other], x, share.view(-1, 1, 1, 1))
        return blended(harden(x, lambda y: blended(y).sum(), generator)).mean()

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
        report_every=500,
    )
    save_half(averaged["network"], FOLDERS[which])
    print(report(averaged, 0), "after rounding to float16")


if __name__ == "__main__":
    main()
