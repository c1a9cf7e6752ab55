"""What the benchmarks of the avatars world share: cases, judges beside those of the library, pictures and pages."""

from __future__ import annotations

import dataclasses
import functools
import os
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import guideflow as gf
from guideflow import registry
from guideflow.metrics.kid import shares
from guideflow_avatars import judges
from guideflow_avatars.identity import WEIGHTS, AvatarsIdentity, load_recogniser
from guideflow_diffusers import denoising
from guideflow_diffusers.parts import load_parts

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CACHE = HERE / "cache"
README = HERE.parent / "README.md"
sys.path.insert(0, str(HERE.parent / "tools" / "avatars"))

FAMILIES = ("perflow", "rectified-flow", "instaflow", "turbo", "pcm")
DEVICE = os.environ.get("GUIDEFLOW_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
PROMPTS = {"check": 1}  # of each person; 4 where nothing is said
PEOPLE = {"search": 8, "check": 24}
FIRST = {"search": 32, "check": 42}  # nobody is searched on and judged on


torch.backends.cudnn.allow_tf32 = False  # the same pictures as on a CPU, to rounding


def machine(device: str = DEVICE) -> str:
    """What kind of machine this is, for the captions."""
    if device.startswith("cuda"):
        return f"one {torch.cuda.get_device_name()}"
    return f"a {os.cpu_count()}-core CPU"


def load_sampler(name: str) -> gf.Sampler:
    """A sampler on the device of the benchmarks."""
    return gf.load_sampler(name, device=DEVICE)


def preset_options(family: str) -> dict[str, Any]:
    """The options that `gf.solve` gives `auto` for a family with `avatars-identity`; none without a preset."""
    preset = registry.find_preset(f"avatars-{family}", "avatars-identity", "auto")
    return {**preset.options} if preset else {}


class PairedIdentity(gf.Loss):
    """`avatars-identity` with one reference per image."""

    name = "identity"

    def __init__(self, references: Tensor) -> None:
        """Embed the references, (B, 3, 128, 128)."""
        self._identity = AvatarsIdentity(references[:1], device=DEVICE)
        self._targets = self._identity.embed(references.to(DEVICE)).detach()

    def __call__(self, image: Tensor) -> Tensor:
        """Return 1 - cosine, image by image."""
        return 1 - (self._identity.embed(image) * self._targets).sum(1)


def cases(part: str) -> tuple[Tensor, list[str], list[int], Tensor]:
    """References (N, 3, 128, 128), prompts, seeds and identities; parts share no person."""
    import captions
    import world
    from common import as_float, load_data

    data = load_data("heldout")
    rng = random.Random(f"guideflow benchmark {part}")
    people = list(dict.fromkeys(data["identity"].tolist()))
    random.Random("guideflow benchmark people").shuffle(people)
    people = people[FIRST[part] : FIRST[part] + PEOPLE[part]]
    rows, prompts = [], []
    for person in people:
        first = (data["identity"] == person).nonzero()[0, 0]
        for clothes, colour, background in rng.sample(world.PROMPTS_OF[True], PROMPTS.get(part, 4)):
            prompts.append(f"a person in {captions.with_article(f'{colour} {clothes}')}, {background} background")
            rows.append(first)
    chosen = torch.stack(rows)
    return as_float(data["images"][chosen]), prompts, list(range(1000, 1000 + len(rows))), data["identity"][chosen]


@torch.no_grad()
def features(images: Tensor) -> Tensor:
    """Pooled features of the attribute classifier, which no loss uses."""
    network = load_recogniser(WEIGHTS / "evaluation" / "attributes").eval().to(DEVICE)
    batches = [network.resnet(x.to(DEVICE) * 2 - 1).pooler_output.flatten(1) for x in images.split(250)]
    return torch.cat(batches).cpu()


@functools.cache
def teacher() -> gf.AffineSampler:
    """The network all students learnt from, behind a sampler that encodes prompts and evaluates it."""
    sampler = load_sampler("avatars-pcm")
    unet = load_parts(WEIGHTS / "base", device=DEVICE).unet
    return sampler.replace(parts=dataclasses.replace(sampler.parts, unet=unet), guidance_scale=1.0)


@torch.no_grad()
def denoise_error(latents: Tensor, prompts: list[str]) -> Tensor:
    """The teacher's error in predicting noise on finished latents under their prompts, (B,).

    Mean over t = 100, 250, 400 with fixed noise: the generator's own opinion of how natural a picture is, and a bound
    on its likelihood.
    """
    judge = teacher()
    return denoising.denoise_error(judge.predict, latents.to(DEVICE), judge.condition(prompts)).cpu()


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3 (KID; Binkowski et al., 2018)."""
    return shares(x.double(), y.double()).mean().item()


def renders() -> Tensor:
    """Held-out renders."""
    from common import as_float, load_data

    return as_float(load_data("heldout")["images"])


def real_pairs(identity: Tensor) -> dict[str, float]:
    """Likeness of two renders of the same person, for the people of the benchmark."""
    from common import as_float, load_data

    data = load_data("heldout")
    first, second = [], []
    for person in identity.unique():
        rows = (data["identity"] == person).nonzero()[:, 0]
        first += rows[:1].expand(len(rows) - 1).tolist()
        second += rows[1:].tolist()
    a, b = as_float(data["images"][first]), as_float(data["images"][second])
    guidance = AvatarsIdentity(a[:1])
    with torch.no_grad():
        similarity = (guidance.embed(a) * guidance.embed(b)).sum(1).mean().item()
    return {"judge": judges.identity_similarity(a, b).mean().item(), "guidance": similarity}


def draw_labelled(
    path: Path,
    rows: Sequence[Sequence[Tensor | None]],
    columns: Sequence[str],
    names: Sequence[str] = (),
    side: float = 0.7,
) -> None:
    """A grid of pictures (3, H, W), columns named on top and rows on the left; None leaves a place empty.

    Arguments:
        path: PNG to write.
        rows: Pictures, row by row.
        columns: One name a column.
        names: One name a row, or none at all.
        side: Of a picture, in hundreds of pixels.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    size = (side * len(columns) + 0.3 * bool(names), (side + 0.03) * len(rows) + 0.25)
    figure, axes = plt.subplots(len(rows), len(columns), figsize=size, layout="constrained", squeeze=False)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.0)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            axis = axes[i][j]
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if picture is not None:
                axis.imshow(picture.clamp(0, 1).permute(1, 2, 0))
            if i == 0:
                axis.set_title(columns[j], fontsize=6, pad=2)
        if names:
            axes[i][0].set_ylabel(names[i], fontsize=6)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def write_between(page: Path, marker: str, text: str) -> None:
    """Replace what stands between `<!-- marker -->` and `<!-- end -->` on a page."""
    pattern = rf"(<!-- {marker} -->\n).*?(<!-- end -->)"
    page.write_text(re.sub(pattern, lambda match: match[1] + text + "\n" + match[2], page.read_text(), flags=re.DOTALL))
