"""Asks how far `auto` gets in a short time, and how natural its pictures stay, in the avatars world.

    python tools/avatars/render.py --train 0       # held-out renders, once
    python benchmarks/realism.py solve             # what the judge of naturalness learns from, once; and then train
    python benchmarks/acceleration.py search       # every rule on 4 people x 4 prompts, on avatars-perflow
    python benchmarks/acceleration.py run          # the rules compared on 32 other people x 2 prompts, on every family
    python benchmarks/acceleration.py time         # what they cost, with nothing else running
    python benchmarks/acceleration.py table        # benchmarks/results/acceleration*.md, plots and pictures

`search` and `run` go on where they were interrupted; `--families a,b` and `--rules a;b` do a part, so that two may run
at once. Everything but the guidance loss is judged by networks that no loss uses (see `guideflow_avatars.judges`).
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from accelerations import LBFGS, Anderson, ByLevel, Moments, NormCap
from avatars import (
    CACHE,
    FAMILIES,
    FIRST,
    HERE,
    PEOPLE,
    PROMPTS,
    RESULTS,
    PairedIdentity,
    cases,
    denoise_error,
    features,
    kernel_distance,
    real_pairs,
    real_pictures,
    write_between,
)
from PIL import Image
from realism import naturalness
from torch import Tensor
from torch.nn import functional as F

import guideflow as gf
from guideflow_avatars import judges

LONG, SHORT, QUICK = 100, 20, 12  # iterations
AT = {LONG: (10, 20, 40, 100), SHORT: (5, 10, 20), QUICK: (4, 8, 12), 15: (5, 10, 15), 24: (8, 16, 24)}
PEOPLE |= {"acceleration-search": 4, "acceleration-run": 32}
FIRST |= {"acceleration-search": 32, "acceleration-run": 200}  # nobody is searched on and judged on
PROMPTS["acceleration-run"] = 2
BATCH, REPEATS = 16, 2
PAGE = HERE.parent / "docs" / "design" / "fewer-iterations.md"
IMAGES = HERE.parent / "docs" / "images"


class Rule(NamedTuple):
    """A solver, for a number of steps of the sampler; in how many iterations; from the best of how many noises."""

    make: Callable[[int], gf.Solver]
    iterations: int = SHORT
    candidates: int = 1


def annealed(num_steps: int, *, decay: float = 0.015, clip: float | None = None, start: float = 8.0) -> gf.Solver:
    """FlowGrad in steps that grow short and forget; the noise of a sampler of one step moves too."""
    rule = gf.FlowGrad(decay=decay, noise=float(num_steps == 1), clip=clip)
    return gf.Annealed(rule, start=start, end=0.25)


def plain() -> gf.Annealed:
    """FlowGrad in steps that grow short."""
    return gf.Annealed(gf.FlowGrad(), start=6.0, end=0.3)


def clean(num_steps: int, *, decay: float = 0.02, start: float = 5.0) -> gf.Solver:
    """`auto`, to be varied: the same without the control after the last window."""
    rule = gf.FlowGrad(decay=decay, noise=3.0 * (num_steps == 1), clip=0.03)
    return gf.Annealed(gf.Windows(rule), start=start, end=0.25)


RULES = {
    "annealed": Rule(annealed),
    "auto": Rule(lambda k: gf.load_solver("auto"), QUICK, gf.Auto.candidates),
}
"""Judged on held-out people; the others only search. `annealed` was the first `auto`."""
CANDIDATES = {
    "anchored": Rule(lambda k: gf.Anchored(), LONG),
    "auto, last control on": Rule(lambda k: annealed(k, decay=0.02, clip=0.03, start=5.0), QUICK, 16),
    "auto, of 1 noise": Rule(clean, QUICK, 1),
    "auto, of 32 noises": Rule(clean, QUICK, 32),
    "auto, twice the iterations": Rule(clean, 24, 16),
    "auto, forgetting twice as much": Rule(lambda k: clean(k, decay=0.04), QUICK, 16),
    "auto, steps by noise level": Rule(
        lambda k: gf.Annealed(ByLevel(gf.FlowGrad(decay=0.02, clip=0.03)), start=5.0, end=0.25), QUICK, 16
    ),
    "sweep, 8 moves a window, of 16 noises": Rule(lambda k: gf.solvers.Sweep(moves=8), 24, 16),
    "anchored, scale 4": Rule(lambda k: gf.Anchored(scale=4.0)),
    "anchored, annealed": Rule(lambda k: gf.Annealed(gf.Anchored(), start=8.0, end=0.4)),
    "flowgrad": Rule(lambda k: gf.FlowGrad()),
    "flowgrad, scale 4": Rule(lambda k: gf.FlowGrad(scale=4.0)),
    "flowgrad, annealed": Rule(lambda k: plain()),
    "flowgrad, annealed, last control off": Rule(lambda k: gf.Windows(plain())),
    "flowgrad, annealed, norm cap": Rule(lambda k: NormCap(plain())),
    "flowgrad, annealed, moments": Rule(lambda k: Moments(plain())),
    "momentum .9": Rule(lambda k: gf.Momentum(gf.FlowGrad())),
    "momentum .5, annealed": Rule(lambda k: gf.Momentum(gf.Annealed(gf.FlowGrad(), start=3.0, end=0.3), beta=0.5)),
    "trust region": Rule(lambda k: gf.TrustRegion(gf.FlowGrad())),
    "Polyak": Rule(lambda k: gf.Polyak(gf.FlowGrad())),
    "Anderson": Rule(lambda k: Anderson(gf.FlowGrad(scale=2.0))),
    "L-BFGS": Rule(lambda k: LBFGS(gf.FlowGrad())),
    "noise descent, unit gradient": Rule(lambda k: gf.NoiseDescent(unit_gradient=True, scale=4.0, l2=0.1)),
}
MEASURES = {  # name -> whether higher is better
    "loss": False,
    "judge": True,
    "prompt": True,
    "denoise": False,
    "real": True,
    "kid": False,
}
DIGITS = {"real": 2, "kid": 2, "denoise": 4}  # others have 3
HEADS = {
    "loss": "guidance loss",
    "judge": "held-out judge",
    "prompt": "prompt",
    "denoise": "denoise error",
    "real": "log-odds of being real",
    "kid": "KID",
}


def solved(part: str, family: str, name: str) -> dict[str, Tensor]:
    """Pictures of every case at the iterations of `AT`, remembered on disk."""
    path = CACHE / f"{part}{PEOPLE[part]}-{family}-{name.replace(' ', '_').replace(',', '')}.pt"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        torch.save(solve(part, family, name), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    return torch.load(path, weights_only=True)


def solve(part: str, family: str, name: str) -> dict[str, Tensor]:
    """Solve every case, in batches: images and latents by iteration."""
    rule = (RULES | CANDIDATES)[name]
    references, prompts, seeds, _ = cases(part)
    sampler = gf.load_sampler(f"avatars-{family}")
    found: dict[str, list[Tensor]] = {}

    def note(progress: gf.callbacks.Progress) -> None:
        if progress.iteration in (0, *AT[rule.iterations]):
            rollout = progress.state.rollout
            found.setdefault(str(progress.iteration), []).append(rollout.images)
            found.setdefault(f"latents {progress.iteration}", []).append(rollout.states[-1])

    for start in range(0, len(prompts), BATCH):
        rows = slice(start, start + BATCH)
        gf.solve(
            sampler,
            PairedIdentity(references[rows]),
            prompt=prompts[rows],
            seed=seeds[rows],
            solver=rule.make(sampler.num_steps),
            max_iterations=rule.iterations,
            candidates=rule.candidates,
            callback=note,
        )
        print(f"{part} {family} {name} {min(start + BATCH, len(prompts))}/{len(prompts)}", flush=True)
    return {key: torch.cat(batches) for key, batches in found.items()}


@torch.no_grad()
def measure(solved: dict[str, Tensor], at: int, part: str) -> dict[str, Tensor]:
    """Every measure of every picture of an iteration."""
    references, prompts, _, _ = cases(part)
    images = solved[str(at)]
    return {
        "loss": PairedIdentity(references)(images),
        "judge": judges.identity_similarity(images, references),
        "prompt": judges.prompt_accuracy(images, prompts).float(),
        "denoise": denoise_error(solved[f"latents {at}"], prompts),
        "real": naturalness(images),
        "features": features(images),
    }


def search() -> None:
    """Every rule on `avatars-perflow`, with people whom `run` does not see; rules that have rows keep them."""
    part = "acceleration-search"
    renders, _ = real_pictures()
    real = features(renders)
    path = RESULTS / "acceleration-search.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for name, rule in (RULES | CANDIDATES).items():
        if any(row["rule"] == name for row in rows):
            continue
        pictures = solved(part, "perflow", name)
        for at in (0, *AT[rule.iterations]) if name == "annealed" else AT[rule.iterations]:
            found = measure(pictures, at, part)
            row = {"rule": name, "iterations": at, "candidates": rule.candidates}
            row |= {key: found[key].mean().item() for key in MEASURES if key != "kid"}
            row["kid"] = kernel_distance(found["features"], real)
            rows.append(row)
            print(json.dumps(row), flush=True)
    order = list(RULES | CANDIDATES)
    rows.sort(key=lambda row: order.index(row["rule"]))
    report = {"date": str(datetime.date.today()), "cases": len(cases(part)[1]), "rows": rows}
    path.write_text(json.dumps(report, indent=1) + "\n")


def run(families: list[str], rules: list[str]) -> None:
    """The rules on people whom the search did not see, with paired differences."""
    part = "acceleration-run"
    for family in families:
        for name in rules:
            solved(part, family, name)
    if set(families) != set(FAMILIES) or set(rules) != set(RULES):
        return
    renders, _ = real_pictures()
    real = features(renders)
    path = RESULTS / "acceleration.json"
    report: dict = {"date": str(datetime.date.today()), "two real pictures": real_pairs(cases(part)[3]), "families": {}}
    if path.exists():
        report["seconds"] = json.loads(path.read_text()).get("seconds", {})
    pooled: dict[str, list[dict[str, Tensor]]] = {name: [] for name in ("unguided", *RULES)}
    for family in families:
        found = {"unguided": measure(solved(part, family, "annealed"), 0, part)}
        found |= {name: measure(solved(part, family, name), rule.iterations, part) for name, rule in RULES.items()}
        report["families"][family] = summary(found, real)
        print(family, json.dumps(report["families"][family]), flush=True)
        for name, values in found.items():
            pooled[name].append(values)
    together = {
        name: {key: torch.cat([each[key] for each in values]) for key in values[0]} for name, values in pooled.items()
    }
    report |= {"all": summary(together, real), "cases": len(cases(part)[1])}
    path.write_text(json.dumps(report, indent=1) + "\n")


def summary(found: dict[str, dict[str, Tensor]], real: Tensor) -> dict:
    """Means, and the differences auto - others with their 95 % intervals: paired bootstrap over the cases."""
    count = len(found["auto"]["loss"])
    rows: dict = {}
    for name, values in found.items():
        rows[name] = {key: values[key].mean().item() for key in MEASURES if key != "kid"}
        rows[name]["kid"] = kernel_distance(values["features"], real)
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(count, (1000, count), generator=generator)
    kernels = {name: Kernel(values["features"], real) for name, values in found.items()}
    rows["differences"] = {}
    for other in found:
        if other == "auto":
            continue
        row = rows["differences"][other] = {}
        for key in MEASURES:
            if key == "kid":
                samples = [kernels["auto"].distance(rows_) - kernels[other].distance(rows_) for rows_ in draws]
                sampled = torch.tensor(samples)
            else:
                sampled = (found["auto"][key] - found[other][key])[draws].mean(1)
            low, high = sampled.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
            row[key] = {"mean": rows["auto"][key] - rows[other][key], "low": low, "high": high}
    return rows


def time() -> None:
    """Seconds of a whole solve of each rule on each family: medians of interleaved repeats."""
    references, prompts, seeds, _ = cases("acceleration-search")
    loss, found = PairedIdentity(references[:8]), {}
    for family in FAMILIES:
        sampler = gf.load_sampler(f"avatars-{family}")
        seconds: dict[str, list[float]] = {name: [] for name in RULES}
        for _ in range(REPEATS):
            for name, rule in RULES.items():
                solution = gf.solve(
                    sampler,
                    loss,
                    prompt=prompts[:8],
                    seed=seeds[:8],
                    solver=rule.make(sampler.num_steps),
                    max_iterations=rule.iterations,
                    candidates=rule.candidates,
                )
                seconds[name].append(solution.stats["seconds"])
        found[family] = {name: statistics.median(values) for name, values in seconds.items()}
        print(family, json.dumps(found[family]), flush=True)
    path = RESULTS / "acceleration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": found}, indent=1) + "\n")


class Kernel:
    """Kernel distance to real renders of any draw of a set of pictures, from matrices that are computed once."""

    def __init__(self, x: Tensor, real: Tensor) -> None:
        """Compute the kernel (x.y / d + 1)^3 within the set, and its mean with real renders."""
        x, real = x.double(), real.double()
        self.within = (x @ x.T / x.shape[1] + 1) ** 3
        self.across = ((x @ real.T / x.shape[1] + 1) ** 3).mean(1)

    def distance(self, rows: Tensor) -> float:
        """Distance but for the constant of the real renders; a picture drawn twice is not compared with itself."""
        within = self.within[rows][:, rows]
        apart = rows[:, None] != rows[None]
        return ((within * apart).sum() / apart.sum() - 2 * self.across[rows].mean()).item()


def verdict(key: str, row: dict) -> str:
    """Whether a difference is worse, better, or neither can be said."""
    low, high = (row["low"], row["high"]) if MEASURES[key] else (-row["high"], -row["low"])
    return "better" if low > 0 else "worse" if high < 0 else "level"


def shown(rows: dict, key: str) -> str:
    """A measure with its digits."""
    return f"{rows[key]:.{DIGITS.get(key, 3)}f}" if key in rows else ""


def table() -> None:
    """Write the tables into the page, and draw the front and the pictures."""
    report = json.loads((RESULTS / "acceleration.json").read_text())
    best = report["two real pictures"]["judge"]
    lines = [
        f"| family | | time | {' | '.join(HEADS.values())} | of the way |",
        "|" + "---|" * (4 + len(HEADS)),
    ]
    for family, rows in [*report["families"].items(), ("all together", report["all"])]:
        seconds = report["seconds"].get(family)
        start = rows["unguided"]["judge"]
        titles = {"unguided": "unguided"} | {name: f"{name}, {rule.iterations}" for name, rule in RULES.items()}
        title = f"`avatars-{family}`" if family in report["families"] else family
        for name, label in titles.items():
            cost = f"{seconds[name] / seconds['annealed']:.2f}" if seconds and name in seconds else ""
            way = f"{(rows[name]['judge'] - start) / (best - start):.0%}"
            cells = [shown(rows[name], key) for key in MEASURES]
            cells[3] += f" ({rows[name]['denoise'] / rows['unguided']['denoise']:.2f}x)"
            lines.append(f"| {title if name == 'unguided' else ''} | {label} | {cost} | {' | '.join(cells)} | {way} |")
        for other in ("unguided", "annealed"):
            row, cells = rows["differences"][other], []
            for key in MEASURES:
                digits = DIGITS.get(key, 3)
                interval = f"{row[key]['low']:+.{digits}f} to {row[key]['high']:+.{digits}f}"
                cells.append(f"{interval}: {verdict(key, row[key])}")
            lines.append(f"| | auto less {other} | | {' | '.join(cells)} | |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "acceleration.md").write_text(text)
    caption = (
        f"{report['cases']} pairs of a held-out person and a held-out prompt for each family, none of them seen in the "
        "search; the number behind a rule is its iterations. *Time* is that of a whole solve, candidates included, "
        "relative to `annealed`. Differences have 95 % intervals of a paired bootstrap over the pairs. Two real "
        f"pictures of a person: judge {best:.3f}. Measured on a 2-core CPU, {report['date']}, by `python "
        "benchmarks/acceleration.py run`, `time` and `table`."
    )
    write_between(PAGE, "acceleration", f"{caption}\n\n{text}")
    report = json.loads((RESULTS / "acceleration-search.json").read_text())
    lines = [f"| rule | noises | iterations | {' | '.join(HEADS.values())} |", "|" + "---|" * (3 + len(HEADS))]
    for row in report["rows"]:
        cells = [shown(row, key) for key in MEASURES]
        lines.append(f"| {row['rule']} | {row['candidates']} | {row['iterations']} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "acceleration-search.md").write_text(text)
    caption = (
        f"`avatars-perflow`, {report['cases']} pairs that serve the search only. Measured on a 2-core CPU, "
        f"{report['date']}, by `python benchmarks/acceleration.py search` and `table`."
    )
    write_between(PAGE, "search", f"{caption}\n\n{text}")
    draw_front(report["rows"])
    draw_pictures()
    draw_sheet()


def draw_front(rows: list[dict]) -> None:
    """Likeness by the judge against naturalness, one line for each rule."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10.4, 5.4), layout="constrained", sharey=True)
    colours = plt.get_cmap("tab20").colors
    names = list(dict.fromkeys(row["rule"] for row in rows))
    for panel, key in ((panels[0], "denoise"), (panels[1], "kid")):
        for i, name in enumerate(names):
            mine = [row for row in rows if row["rule"] == name and row["iterations"] > 0 and key in row]
            style = {
                "color": "black" if name == "auto" else colours[i % 20],
                "ls": "-" if i < 20 else "--",
                "lw": 2.4 if name in RULES else 1.0,
                "marker": "o",
                "ms": 5 if name in RULES else 3,
            }
            panel.plot([row[key] for row in mine], [row["judge"] for row in mine], label=name, **style)
        panel.set(xlabel=f"{HEADS[key]}, less is more natural")
        panel.spines[["top", "right"]].set_visible(False)
        panel.invert_xaxis()
    unguided = next(row for row in rows if row["iterations"] == 0)
    panels[0].axvline(unguided["denoise"], color="0.6", lw=0.8, ls=":")
    panels[0].annotate("unguided", (unguided["denoise"], 0.0), fontsize=7, color="0.4", rotation=90, ha="right")
    panels[0].set(ylabel="likeness, held-out judge", xlim=(0.12, None))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right", frameon=False, fontsize=7)
    figure.savefig(IMAGES / "fewer-iterations.png", dpi=110)


def draw_pictures() -> None:
    """For each family four people, evenly spread over the cases: reference, unguided and the rules; labelled."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    part = "acceleration-run"
    references, *_ = cases(part)
    rows = range(0, len(references), len(references) // 4)
    labels = ["reference", "unguided", *(f"{name}\n{rule.iterations}" for name, rule in RULES.items())]
    figure, axes = plt.subplots(
        len(FAMILIES), 4 * len(labels), figsize=(0.66 * 4 * len(labels), 0.76 * len(FAMILIES)), layout="constrained"
    )
    for family, line in zip(FAMILIES, axes, strict=True):
        pictures = [references, solved(part, family, "annealed")["0"]]
        pictures += [solved(part, family, name)[str(rule.iterations)] for name, rule in RULES.items()]
        line[0].set_ylabel(family, fontsize=7)
        for j, axis in enumerate(line):
            axis.imshow(pictures[j % len(labels)][rows[j // len(labels)]].clamp(0, 1).permute(1, 2, 0))
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if family == FAMILIES[0]:
                axis.set_title(labels[j % len(labels)], fontsize=6)
    figure.savefig(IMAGES / "fewer-iterations-pictures.png", dpi=100)


def draw_sheet() -> None:
    """All pairs of one family at half the pictures' size: each person's reference, then the guided pictures."""
    part = "acceleration-run"
    references, *_ = cases(part)
    guided = solved(part, "perflow", "auto")[str(QUICK)].unflatten(0, (-1, PROMPTS[part]))
    sheet = torch.cat([references[:: PROMPTS[part], None], guided], 1).flatten(0, 1)
    path = IMAGES / "fewer-iterations-sheet.png"
    gf.images.save_image(path, gf.images.grid(F.avg_pool2d(sheet, 2), columns=12), {})
    Image.open(path).save(path, optimize=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("search", "run", "time", "table"))
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--rules", default="", help="names with semicolons between them")
    options = parser.parse_args()
    if options.what == "search" and options.rules:
        for name in options.rules.split(";"):
            solved("acceleration-search", "perflow", name)
    elif options.what == "run":
        run(options.families.split(","), options.rules.split(";") if options.rules else list(RULES))
    else:
        {"search": search, "time": time, "table": table}[options.what]()


if __name__ == "__main__":
    main()
