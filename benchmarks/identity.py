"""Compares solvers at the main job: 32 held-out people x 4 held-out prompts in the avatars world.

    python tools/avatars/render.py --train 0        # held-out renders, once
    python benchmarks/identity.py search            # best setting of each solver, on other people
    python benchmarks/identity.py run               # the comparison; goes on where it was interrupted
    python benchmarks/identity.py table             # benchmarks/results/identity.md, and a picture of samples

Everything is judged by networks that no loss uses (see `guideflow_avatars.judges`).
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import re
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import guideflow as gf
from guideflow_avatars import judges
from guideflow_avatars.identity import WEIGHTS, AvatarsIdentity, load_recogniser

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CACHE = HERE / "cache"
sys.path.insert(0, str(HERE.parent / "tools" / "avatars"))

CAPTION = """## Results

{people} people whom no network was trained on, times 4 prompts that no generator was trained on, in the avatars world;
50 iterations; each solver at the best setting of a small search on four other people. Measured on a 2-core CPU, {date},
by `python benchmarks/identity.py search`, `run --people {people}` and `table`.

*Likeness* is the cosine to the reference; the judge is a network of another architecture, trained on other people, that
no loss uses, and *of the way* says how far the solver gets from unguided to two real pictures of a person. *Prompt* is
the share of background, clothes and colour that is as asked. *KID* to real renders and *taken for real* (the share
that a classifier, trained on other solvers' pictures, does not tell from real ones) say how natural the pictures are.
*Distance* is the root mean square change of the picture, *cost* the time relative to anchored guidance."""
ITERATIONS = 50
BATCH = 32
PEOPLE = {"run": 32, "search": 4}
SETTINGS: dict[str, list[dict]] = {
    "anchored": [{"scale": s} for s in (0.5, 1.0, 2.0)],
    "noise-descent": [
        {"lr": 0.4},
        {"lr": 0.1},
        {"lr": 0.4, "l2": 0.1},
        {"unit_gradient": True, "scale": 4.0, "l2": 0.1},
    ],
    "unanchored": [{"scale": s} for s in (0.1, 0.5, 1.0)],
    "flowgrad": [{"scale": s} for s in (0.5, 1.0, 2.0)],
}


class PairedIdentity(gf.AbstractLoss):
    """`avatars-identity` with one reference per image."""

    name = "identity"

    def __init__(self, references: Tensor) -> None:
        """Embed the references, (B, 3, 64, 64)."""
        self._identity = AvatarsIdentity(references[:1])
        self._targets = self._identity.embed(references).detach()

    def __call__(self, image: Tensor) -> Tensor:
        """Return 1 - cosine, image by image."""
        return 1 - (self._identity.embed(image) * self._targets).sum(1)


def cases(part: str) -> tuple[Tensor, list[str], list[int], Tensor]:
    """References (N, 3, 64, 64), prompts, seeds and identities; `search` and `run` share no person."""
    import world
    from common import as_float, load_data

    data = load_data("heldout")
    rng = random.Random(f"guideflow benchmark {part}")
    people = list(dict.fromkeys(data["identity"].tolist()))
    random.Random("guideflow benchmark people").shuffle(people)
    people = people[: PEOPLE["run"]] if part == "run" else people[32 : 32 + PEOPLE["search"]]
    rows, prompts = [], []
    for person in people:
        first = (data["identity"] == person).nonzero()[0, 0]
        for clothes, colour, background in rng.sample(world.PROMPTS_OF[True], 4):
            prompts.append(f"a person in {world.with_article(f'{colour} {clothes}')}, {background} background")
            rows.append(first)
    chosen = torch.stack(rows)
    return as_float(data["images"][chosen]), prompts, list(range(1000, 1000 + len(rows))), data["identity"][chosen]


def solve(name: str, options: dict, part: str) -> dict[str, Tensor | float]:
    """Guided and unguided pictures of all cases, with the seconds they took."""
    references, prompts, seeds, _ = cases(part)
    sampler = gf.load_sampler("avatars-perflow")
    images, unguided, seconds = [], [], 0.0
    for start in range(0, len(prompts), BATCH):
        rows = slice(start, start + BATCH)
        solution = gf.solve(
            sampler,
            PairedIdentity(references[rows]),
            prompt=prompts[rows],
            seed=seeds[rows],
            solver=gf.load_solver(name, **options),
            max_iterations=ITERATIONS,
            keep="last",
        )
        images.append(solution.images)
        unguided.append(solution.unguided)
        seconds += solution.stats["seconds"]
        print(f"{part} {name} {options} {start + len(solution.images)}/{len(prompts)}", flush=True)
    return {"images": torch.cat(images), "unguided": torch.cat(unguided), "seconds": seconds}


def cached(name: str, options: dict, part: str) -> dict[str, Tensor | float]:
    """`solve`, remembered on disk."""
    key = "-".join([f"{part}{PEOPLE[part]}", name, *(f"{k}={v}" for k, v in options.items())])
    path = CACHE / f"{key}.pt"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        result = solve(name, options, part)
        torch.save(result, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    return torch.load(path, weights_only=True)


@torch.no_grad()
def features(images: Tensor) -> Tensor:
    """Pooled features of the attribute classifier, which no loss uses."""
    network = load_recogniser(WEIGHTS / "evaluation" / "attributes").eval()
    return torch.cat([network.resnet(x * 2 - 1).pooler_output.flatten(1) for x in images.split(250)])


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3 (KID; Binkowski et al., 2018)."""
    x, y = x.double(), y.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def off_diagonal(k: Tensor) -> Tensor:
        return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))

    return (off_diagonal(kernel(x, x)) + off_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean()).item()


@torch.no_grad()
def real_pictures() -> tuple[Tensor, Tensor]:
    """Held-out renders, and the same through the autoencoder, so that no judge can go by the decoder's traces."""
    from common import as_float, load_data

    renders = as_float(load_data("heldout")["images"])
    vae = gf.load_sampler("avatars-perflow").parts.vae
    decoded = [vae.decode(vae.encode(x * 2 - 1).latent_dist.mode()).sample for x in renders.split(250)]
    return renders, (torch.cat(decoded) / 2 + 0.5).clamp(0, 1)


def train_real_or_guided(real: Tensor, guided: Tensor) -> torch.nn.Module:
    """Classifier whose output is positive for real pictures; both classes are drawn equally often."""
    from transformers import ResNetConfig, ResNetForImageClassification

    from recognisers import augment

    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 96, 128], depths=[1] * 4, layer_type="basic", num_labels=1
    )
    network = ResNetForImageClassification(config)
    steps = 300
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    label = torch.cat([torch.ones(32), torch.zeros(32)])
    for _ in range(steps):
        x = torch.cat([p[torch.randint(len(p), (32,), generator=generator)] for p in (real, guided)])
        output = network(augment(x, generator, colour=False) * 2 - 1).logits[:, 0]
        loss = F.binary_cross_entropy_with_logits(output, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def judge(images: Tensor, unguided: Tensor, part: str) -> dict[str, float]:
    """Likeness, prompt and distance of a set of pictures."""
    references, prompts, _, _ = cases(part)
    guidance = AvatarsIdentity(references[:1])
    with torch.no_grad():
        similarity = (guidance.embed(images) * guidance.embed(references)).sum(1)
    return {
        "judge": judges.identity_similarity(images, references).mean().item(),
        "guidance": similarity.mean().item(),
        "prompt": judges.prompt_accuracy(images, prompts).mean().item(),
        "distance": (images - unguided).square().mean((1, 2, 3)).sqrt().mean().item(),
    }


def search() -> None:
    """Choose each solver's setting: held-out likeness, less what it costs in prompt and naturalness."""
    renders, _ = real_pictures()
    real = features(renders)
    found: dict[str, dict] = {}
    for name, settings in SETTINGS.items():
        rows = []
        for options in settings:
            result = cached(name, options, "search")
            scores = judge(result["images"], result["unguided"], "search")
            scores["kid"] = kernel_distance(features(result["images"]), real)
            scores["value"] = scores["judge"] + min(0.0, scores["prompt"] - 0.9) - 0.1 * scores["kid"]
            rows.append({"options": options, **scores})
            print(name, json.dumps(rows[-1]), flush=True)
        found[name] = {"rows": rows, "best": max(rows, key=lambda row: row["value"])["options"]}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "search.json").write_text(json.dumps(found, indent=1) + "\n")


def run() -> None:
    """The comparison, at the settings found."""
    path = RESULTS / "search.json"
    if not path.exists():
        raise SystemExit("No settings yet: type `python benchmarks/identity.py search` first.")
    best = {name: entry["best"] for name, entry in json.loads(path.read_text()).items()}
    results = {name: cached(name, options, "run") for name, options in best.items()}
    renders, decoded = real_pictures()
    real = features(renders)
    reference_seconds = results["anchored"]["seconds"]
    _, _, _, identity = cases("run")
    pictures = {"unguided": results["anchored"]["unguided"], **{name: r["images"] for name, r in results.items()}}
    rows = {}
    for name, images in pictures.items():
        others = torch.cat([x for other, x in pictures.items() if other not in (name, "unguided")])
        classifier = train_real_or_guided(decoded[::2], others)
        with torch.no_grad():
            taken_for_real = (classifier(images * 2 - 1).logits[:, 0] > 0).float().mean().item()
            real_for_real = (classifier(decoded[1::2] * 2 - 1).logits[:, 0] > 0).float().mean().item()
        rows[name] = {
            "options": best.get(name, {}),
            **judge(images, pictures["unguided"], "run"),
            "kid": kernel_distance(features(images), real),
            "taken_for_real": taken_for_real,
            "real_for_real": real_for_real,
            "cost": results[name]["seconds"] / reference_seconds if name in results else 0.0,
        }
        print(name, json.dumps(rows[name]), flush=True)
    rows["two real pictures"] = real_pairs(identity)
    rows |= {"cases": len(identity), "date": str(datetime.date.today())}
    (RESULTS / "identity.json").write_text(json.dumps(rows, indent=1) + "\n")


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


def table() -> None:
    """Write the table and a picture of the first people with every solver."""
    rows = json.loads((RESULTS / "identity.json").read_text())
    low, high = rows["unguided"]["judge"], rows["two real pictures"]["judge"]
    lines = [
        "| | setting | likeness, held-out judge | of the way | likeness, guidance network | prompt | KID "
        "| taken for real | distance | cost |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if not isinstance(row, dict):
            continue
        options = ", ".join(f"{key}={value}" for key, value in row.get("options", {}).items())
        cells = [
            name,
            options,
            f"{row['judge']:.3f}",
            f"{(row['judge'] - low) / (high - low):.0%}",
            f"{row['guidance']:.3f}",
        ]
        if "prompt" in row:
            cells += [f"{row['prompt']:.3f}", f"{row['kid']:.2f}", f"{row['taken_for_real']:.0%}"]
            cells += [f"{row['distance']:.3f}", f"{row['cost']:.2f}"]
        lines.append("| " + " | ".join(cells + [""] * (10 - len(cells))) + " |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "identity.md").write_text(text)
    print(text)
    readme = HERE.parent / "README.md"
    written = f"{CAPTION.format(people=rows['cases'] // 4, date=rows['date'])}\n\n{text}"
    pattern = r"(<!-- results -->\n).*(<!-- end -->)"
    readme.write_text(
        re.sub(pattern, lambda match: match[1] + written + "\n" + match[2], readme.read_text(), flags=re.DOTALL)
    )
    best = {name: entry["best"] for name, entry in json.loads((RESULTS / "search.json").read_text()).items()}
    results = [cached(name, options, "run") for name, options in best.items()]
    references, *_ = cases("run")
    columns = [references, results[0]["unguided"], *(r["images"] for r in results)]
    shown = torch.stack([column[:: max(1, len(column) // 12)][:12] for column in columns], 1).flatten(0, 1)
    gf.images.save_image(RESULTS / "identity.png", gf.images.grid(shown, columns=len(columns) * 3), {})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("search", "run", "table"))
    parser.add_argument("--people", type=int, help="fewer people than 32 (run) or 4 (search), for a quick look")
    options = parser.parse_args()
    if options.people:
        PEOPLE["search" if options.what == "search" else "run"] = options.people
    {"search": search, "run": run, "table": table}[options.what]()


if __name__ == "__main__":
    main()
