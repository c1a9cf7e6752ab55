"""A judge of naturalness: tells guided pictures from real ones by how they are drawn, not by what they show.

    python benchmarks/realism.py solve [--families a,b]   # guided pictures to learn from; goes on where it stopped
    python benchmarks/realism.py train                    # the judge, and how well it tells

Guided pictures of 60 held-out people (whom no other benchmark sees) x 4 prompts, spread over the families and over
several solvers, stand against renders of the very same people with the same prompts, both through the autoencoder. So
neither a person, nor a prompt, nor the decoder gives a picture away.
"""

from __future__ import annotations

import argparse
import functools
import random
from collections.abc import Callable

import torch
from avatars import CACHE, DEVICE, FAMILIES, FIRST, PEOPLE, PairedIdentity, cases, load_sampler
from torch import Tensor, nn
from torch.nn import functional as F

import guideflow as gf
from guideflow_avatars.identity import SIZE

PART = "realism"
PEOPLE[PART], FIRST[PART] = 60, 100
SOLVERS: tuple[Callable[[], gf.Solver], ...] = (
    lambda: gf.Anchored(scale=4.0),
    lambda: gf.FlowGrad(),
    lambda: gf.FlowGrad(scale=4.0),
    lambda: gf.Momentum(gf.FlowGrad()),
    lambda: gf.Polyak(gf.FlowGrad()),
    lambda: gf.NoiseDescent(unit_gradient=True, scale=4.0, l2=0.1),
)
AT = (10, 20)
STEPS = 600


def guided(family: str) -> Tensor:
    """Guided pictures of the family's share of the cases, (cases, iterates, 3, 128, 128), remembered on disk."""
    path = CACHE / f"{PART}{PEOPLE[PART]}-{family}.pt"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        torch.save(_solve(family), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    return torch.load(path, weights_only=True)


def share(family: str) -> list[int]:
    """Rows of the cases that a family solves."""
    return list(range(4 * PEOPLE[PART]))[FAMILIES.index(family) :: len(FAMILIES)]


def _solve(family: str) -> Tensor:
    references, prompts, seeds, _ = cases(PART)
    sampler = load_sampler(f"avatars-{family}")
    rows, found = share(family), {}
    for i, make in enumerate(SOLVERS):
        mine = rows[i :: len(SOLVERS)]
        seen: list[Tensor] = []

        def note(progress: gf.callbacks.Progress, seen: list[Tensor] = seen) -> None:
            if progress.iteration in AT:
                seen.append(progress.state.rollout.images.cpu())

        gf.solve(
            sampler,
            PairedIdentity(references[mine]),
            prompt=[prompts[row] for row in mine],
            seed=[seeds[row] for row in mine],
            solver=make(),
            max_iterations=max(AT),
            callback=note,
        )
        found |= {row: torch.stack([images[j] for images in seen]) for j, row in enumerate(mine)}
        print(f"{PART} {family} {i + 1}/{len(SOLVERS)}", flush=True)
    return torch.stack([found[row] for row in rows])


@torch.no_grad()
def real() -> Tensor:
    """Renders of the same people with the same prompts, through the autoencoder, in the order of the cases."""
    path = CACHE / f"{PART}{PEOPLE[PART]}-real.pt"
    if not path.exists():
        import re

        import world
        from render import draw

        _, prompts, _, identity = cases(PART)
        rng = random.Random("guideflow realism")
        pictures = []
        for prompt, person in zip(prompts, identity.tolist(), strict=True):
            colour, clothes, background = re.fullmatch(
                r"a person in an? (\S+) (\S+), (\S+) background", prompt
            ).groups()
            portrait = world.sample_portrait(rng, person)
            portrait = world.dataclasses.replace(portrait, colour=colour, clothes=clothes, background=background)
            pictures.append(torch.from_numpy(draw(portrait).copy()).permute(2, 0, 1).float() / 255)
        vae = load_sampler("avatars-perflow").parts.vae
        x = torch.stack(pictures)
        decoded = [vae.decode(vae.encode(b.to(DEVICE) * 2 - 1).latent_dist.mode()).sample.cpu() for b in x.split(60)]
        torch.save((torch.cat(decoded) / 2 + 0.5).clamp(0, 1), path)
    return torch.load(path, weights_only=True)


def jiggle(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror images and small shifts: nothing that would hide how a picture is drawn."""
    mirrored = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    dx, dy = torch.randint(0, 13, (2,), generator=generator).tolist()
    return F.pad(x.flip(-1).where(mirrored, x), (6,) * 4, mode="replicate")[..., dy : dy + SIZE, dx : dx + SIZE]


class Patches(nn.Sequential):
    """Log-odds that a picture is real: the mean over its patches of 23 pixels, too small to show who it is."""

    def __init__(self, width: int = 48) -> None:
        """Four convolutions, two of them strided."""
        super().__init__(
            nn.Conv2d(3, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 4, stride=2, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.Dropout(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 128, 128) in [0, 1] -> (B,)."""
        return super().forward(images * 2 - 1).mean((1, 2, 3))


def train(rows: list[int]) -> nn.Module:
    """Train on some of the cases; the output is positive for real pictures."""
    torch.manual_seed(0)
    network = Patches().to(DEVICE)
    fake = torch.empty(4 * PEOPLE[PART], len(AT), 3, SIZE, SIZE)
    for family in FAMILIES:
        fake[share(family)] = guided(family)
    true, chosen = real(), torch.tensor(rows)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=5e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    generator = torch.Generator().manual_seed(0)
    label = torch.cat([torch.ones(32), torch.zeros(32)]).to(DEVICE)
    for _ in range(STEPS):
        mine = chosen[torch.randint(len(chosen), (32,), generator=generator)]  # the same cases on both sides
        iterate = torch.randint(len(AT), (32,), generator=generator)
        x = torch.cat([true[mine], fake[mine, iterate]])
        logits = network(jiggle(x, generator).to(DEVICE))
        loss = F.binary_cross_entropy_with_logits(logits, label, reduction="mean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval().cpu()


JUDGE = CACHE / f"{PART}{PEOPLE[PART]}-judge.pt"


def trained() -> bool:
    """Whether the judge is there; it takes some hours of a CPU to make."""
    return JUDGE.exists()


@functools.cache
def judge() -> nn.Module:
    """The judge, trained on all cases, remembered on disk."""
    if not trained():
        torch.save(train(list(range(4 * PEOPLE[PART]))).state_dict(), JUDGE)
    network = Patches().eval()
    network.load_state_dict(torch.load(JUDGE, weights_only=True))
    return network


@torch.no_grad()
def naturalness(images: Tensor) -> Tensor:
    """Log-odds that a picture is real rather than guided, by how it is drawn, (B,); above 0 it is taken for real."""
    return torch.cat([judge()(x) for x in images.split(250)])


def check() -> None:
    """Train without the last quarter of the people and tell how well those are told apart."""
    count = 4 * PEOPLE[PART]
    network = train(list(range(count * 3 // 4)))
    rest = [row for row in range(count * 3 // 4, count)]
    fake = torch.empty(count, len(AT), 3, SIZE, SIZE)
    for family in FAMILIES:
        fake[share(family)] = guided(family)
    with torch.no_grad():
        real_ones = network(real()[rest])
        print(f"people it was not trained on: real taken for real {(real_ones > 0).float().mean():.2f}", end="")
        for i, at in enumerate(AT):
            guided_ones = network(fake[rest, i])
            print(f", guided at {at} taken for real {(guided_ones > 0).float().mean():.2f}", end="")
        print(flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("solve", "train"))
    parser.add_argument("--families", default=",".join(FAMILIES))
    options = parser.parse_args()
    if options.what == "solve":
        for family in options.families.split(","):
            guided(family)
    else:
        check()
        judge()


if __name__ == "__main__":
    main()
