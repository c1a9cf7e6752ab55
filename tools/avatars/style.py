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
from common import DEVICE, WEIGHTS, as_float, autocast, load_data, save_half, step_generator, train
from guideflow_avatars.style import StyleFeatures
from guideflow_style import gram
from recognisers import blur, harden, shift, uniform
from styles import HELD_OUT, STYLES, paint

FOLDERS = {"guidance": WEIGHTS / "style", "evaluation": WEIGHTS / "evaluation" / "style"}
TAUGHT = {"guidance": STYLES, "evaluation": STYLES | HELD_OUT}
STEPS = {"guidance": 1500, "evaluation": 2000}
RATES = {"guidance": 3e-3, "evaluation": 2e-3}
SEEDS = {"guidance": 22, "evaluation": 23}
TEMPERATURE = 0.1
EACH = 8 if DEVICE.type == "cuda" else 2  # pictures of every style in a step


def build(which: str) -> dict[str, nn.Module]:
    """Networks for 128x128 pictures, in [0, 1] for the guide and in [-1, 1] for the judge."""
    if which == "guidance":
        return {"network": StyleFeatures().to(DEVICE, memory_format=torch.channels_last)}
    classes = len(TAUGHT[which])
    config = ResNetConfig(
        embedding_size=24, hidden_sizes=[24, 48, 96], depths=[1, 1, 1], layer_type="basic", num_labels=classes
    )
    config.id2label = dict(enumerate(TAUGHT[which]))
    config.label2id = {name: i for i, name in config.id2label.items()}
    return {"network": ResNetForImageClassification(config).to(DEVICE)}


def soften(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flips, shifts, a little blur and noise: less than would change a style."""
    x = shift(x, generator, 6)
    x = torch.lerp(x, blur(x), uniform(x, generator, 0, 0.6) * (uniform(x, generator, 0, 1) < 0.4))
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    return (x + uniform(x, generator, 0, 0.03) * noise).clamp(0, 1)


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
    every = STYLES | HELD_OUT
    generator = step_generator(SEEDS[which], 1 << 20)
    numbers = torch.arange(len(every), device=images.device).repeat(count)
    content = as_float(images[:: len(images) // (2 * count)][: 2 * count])
    described = []
    for part in content.split(count):
        painted = paint(part.repeat_interleave(len(every), 0), generator, every)
        described.append(
            [torch.cat(x) for x in zip(*(describe(which, network, x) for x in painted.split(100)), strict=True)]
        )
    table = distances(which, *described)
    right, same = numbers[table.argmin(1)] == numbers, numbers[:, None] == numbers
    found = {}
    for name, styles in (("trained styles", STYLES), ("held-out styles", HELD_OUT)):
        rows = torch.isin(numbers, torch.tensor([list(every).index(key) for key in styles], device=images.device))
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
    half = copy.deepcopy(network).cpu().half().state_dict()
    save_file({name: value.contiguous() for name, value in half.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"widths": network.widths}, indent=2) + "\n")
    network.load_state_dict({name: value.float() for name, value in half.items()})
    return None


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=tuple(FOLDERS))
    parser.add_argument("--steps", type=int, help="of training, at most")
    options = parser.parse_args()
    which, seed, styles = options.which, SEEDS[options.which], TAUGHT[options.which]
    torch.manual_seed(seed)
    data, heldout = load_data("train"), load_data("heldout")
    people = torch.tensor(world.IDENTITIES_OF[which], device=DEVICE)
    rows = torch.isin(data["identity"], people).nonzero()[:, 0]
    modules = build(which)
    network, count = modules["network"], len(styles)
    labels = torch.arange(count, device=DEVICE).repeat(EACH)

    def draw(pictures: int, generator: torch.Generator) -> Tensor:
        """Pictures of all styles in turn."""
        chosen = rows[torch.randint(len(rows), (pictures,), generator=generator, device=DEVICE)]
        return soften(paint(as_float(data["images"][chosen]), generator, styles), generator)

    def matching(step: int) -> Tensor:
        generator = step_generator(seed, step)
        references, queries = draw(count * (1 + EACH), generator).tensor_split((count,))
        known = describe(which, network, references)

        def wrong(y: Tensor, known: list[Tensor]) -> Tensor:
            table = distances(which, describe(which, network, y), known)
            return F.cross_entropy(-table / TEMPERATURE, labels[: len(y)], reduction="sum")

        half, fixed = count * EACH // 2, [one.detach() for one in known]
        hard = harden(queries[:half], lambda y: wrong(y, fixed), generator)
        return wrong(torch.cat([hard, queries[half:]]), known) / len(queries)

    def classes(step: int) -> Tensor:
        x = draw(count * EACH, step_generator(seed, step))
        with autocast():
            output = network(x * 2 - 1).logits
        return F.cross_entropy(output.float(), labels)

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
