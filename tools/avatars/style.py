"""Trains the networks behind `avatars-style` and its judge: they tell picture styles apart, whatever is shown.

    python tools/avatars/style.py guidance      # plain convolutions, the styles of `styles.STYLES`: the loss
    python tools/avatars/style.py evaluation    # ResNet, these and `styles.HELD_OUT`, other people: the judge

The network that guides learns by the very distance of the loss, between Gram matrices of three layers: of one picture
of every style, the nearest is to be that of the same style (a matching network; Vinyals et al., 2016). Half of the
pictures are adversarial, for the sake of its gradients.
"""

from __future__ import annotations

import argparse
import copy
import json

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

import world
from common import WEIGHTS, as_float, load_data, save_half, step_generator, train
from guideflow_avatars.style import StyleFeatures
from guideflow_style import gram
from recognisers import harden
from styles import HELD_OUT, STYLES, paint

FOLDERS = {"guidance": WEIGHTS / "style", "evaluation": WEIGHTS / "evaluation" / "style"}
TAUGHT = {"guidance": STYLES, "evaluation": STYLES | HELD_OUT}
STEPS = {"guidance": 200, "evaluation": 900}
RATES = {"guidance": 3e-3, "evaluation": 2e-3}
SEEDS = {"guidance": 22, "evaluation": 23}
BATCH, TEMPERATURE = 48, 0.1


def build(which: str) -> dict[str, nn.Module]:
    """Networks for 64x64 pictures, in [0, 1] for the guide and in [-1, 1] for the judge."""
    if which == "guidance":
        return {"network": StyleFeatures().to(memory_format=torch.channels_last)}
    classes = len(TAUGHT[which])
    config = ResNetConfig(
        embedding_size=24, hidden_sizes=[24, 48, 96], depths=[1, 1, 1], layer_type="basic", num_labels=classes
    )
    config.id2label = dict(enumerate(TAUGHT[which]))
    config.label2id = {name: i for i, name in config.id2label.items()}
    return {"network": ResNetForImageClassification(config)}


def soften(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flips, shifts, a little blur and noise: less than would change a style."""
    n = len(x)

    def uniform(high: float) -> Tensor:
        return high * torch.rand(n, 1, 1, 1, generator=generator)

    x = x.flip(-1).where(uniform(1) < 0.5, x)
    dx, dy = torch.randint(0, 7, (2,), generator=generator).tolist()
    x = F.pad(x, (3, 3, 3, 3), mode="replicate")[..., dy : 64 + dy, dx : 64 + dx]
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blurred, uniform(0.6) * (uniform(1) < 0.4))
    return (x + uniform(0.03) * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def describe(which: str, network: nn.Module, x: Tensor) -> list[Tensor]:
    """What is compared: Gram matrices as one vector per layer, or the judge's pooled features."""
    if which == "guidance":
        return [gram(one).flatten(1) for one in network(x.to(memory_format=torch.channels_last))]
    return [network.resnet(x * 2 - 1).pooler_output.flatten(1)]


def distances(which: str, one: list[Tensor], other: list[Tensor]) -> Tensor:
    """Distances (N, M): the loss of N pictures with M references, or 1 - cosine for the judge."""
    if which == "evaluation":
        return 1 - F.normalize(one[0]) @ F.normalize(other[0]).T
    each = []
    for a, b in zip(one, other, strict=True):  # norm(a - b)^2 without a table of differences
        size = b.square().sum(1)
        each.append((a.square().sum(1)[:, None] + size - 2 * a @ b.T).clamp(min=0) / size)
    return torch.stack(each).mean(0)


@torch.no_grad()
def measure(which: str, network: nn.Module, images: Tensor, count: int = 20) -> dict[str, float]:
    """How often the nearest picture of other content has the same style, for trained and for held-out styles."""
    found = {}
    for name, styles in (("trained styles", STYLES), ("held-out styles", HELD_OUT)):
        generator = torch.Generator().manual_seed(0)
        every = STYLES | HELD_OUT
        chosen = [list(every).index(key) for key in styles]
        content = as_float(images[:: len(images) // (2 * count)][: 2 * count])
        both = []
        for part in (content[:count], content[count:]):
            numbers = torch.arange(len(every)).repeat_interleave(count)
            both.append(
                (describe(which, network, paint(part.repeat(len(every), 1, 1, 1), numbers, generator, every)), numbers)
            )
        (queries, numbers), (others, labels) = both
        table = distances(which, queries, others)
        rows = torch.isin(numbers, torch.tensor(chosen))
        right = labels[table.argmin(1)] == numbers
        same = numbers[:, None] == labels
        found[name] = right[rows].float().mean().item()
        found[f"{name}: distance, same style"] = table[rows[:, None] & same].median().item()
        found[f"{name}: distance, another"] = table[rows[:, None] & ~same].median().item()
    return found


def save(which: str, network: nn.Module) -> None:
    """Write the folder, in float16, and round the live network alike."""
    folder = FOLDERS[which]
    if which == "evaluation":
        return save_half(network, folder)
    folder.mkdir(parents=True, exist_ok=True)
    half = copy.deepcopy(network).half().state_dict()
    save_file({name: value.contiguous() for name, value in half.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"widths": network.widths}, indent=2) + "\n")
    network.load_state_dict({name: value.float() for name, value in half.items()})
    return None


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=tuple(FOLDERS))
    parser.add_argument("--steps", type=int, help="of training; as shipped by default")
    options = parser.parse_args()
    which, seed, styles = options.which, SEEDS[options.which], TAUGHT[options.which]
    torch.manual_seed(seed)
    data, heldout = load_data("train"), load_data("heldout")
    people = torch.tensor(world.IDENTITIES_OF[which])
    images = data["images"][torch.isin(data["identity"], people)]
    modules = build(which)

    network = modules["network"]

    def matching(step: int) -> Tensor:
        generator = step_generator(seed, step)
        labels = torch.cat([torch.arange(len(styles)), torch.randint(len(styles), (BATCH,), generator=generator)])
        chosen = torch.randint(len(images), labels.shape, generator=generator)
        x = soften(paint(as_float(images[chosen]), labels, generator, styles), generator)
        references, queries = x.split([len(styles), BATCH])
        known = describe(which, network, references)

        def wrong(y: Tensor, rows: slice, known: list[Tensor]) -> Tensor:
            table = distances(which, describe(which, network, y), known)
            return F.cross_entropy(-table / TEMPERATURE, labels[len(styles) :][rows], reduction="sum")

        half, fixed = slice(BATCH // 2), [one.detach() for one in known]
        hard = harden(queries[half], lambda y: wrong(y, half, fixed), generator)
        return wrong(torch.cat([hard, queries[BATCH // 2 :]]), slice(None), known) / BATCH

    def classes(step: int) -> Tensor:
        generator = step_generator(seed, step)
        labels = torch.randint(len(styles), (BATCH,), generator=generator)
        chosen = torch.randint(len(images), labels.shape, generator=generator)
        x = soften(paint(as_float(images[chosen]), labels, generator, styles), generator)
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(network(x * 2 - 1).logits.float(), labels)

    def report(averaged: dict[str, nn.Module], _: int) -> str:
        found = measure(which, averaged["network"], heldout["images"], 6)
        return "held-out " + ", ".join(f"{key} {value:.3f}" for key, value in found.items())

    print("random weights:", report({"network": network.eval()}, 0), flush=True)
    network.train()
    averaged = train(
        f"style-{which}",
        modules,
        matching if which == "guidance" else classes,
        steps=options.steps or STEPS[which],
        learning_rate=RATES[which],
        warmup=20 if which == "guidance" else 100,
        weight_decay=1e-2,
        ema=0.98 if which == "guidance" else 0.99,
        report=report,
        report_every=200,
    )
    save(which, averaged["network"])
    print(report(averaged, 0), "after rounding to float16")


if __name__ == "__main__":
    main()
