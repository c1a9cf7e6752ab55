"""Asks whether fewer iterations do as well as `anchored` does in 100, in the avatars world.

    python tools/avatars/render.py --train 0       # held-out renders, once
    python benchmarks/realism.py solve             # what the judge of naturalness learns from, once; and then train
    python benchmarks/acceleration.py search       # every rule on 4 people x 4 prompts, on avatars-perflow
    python benchmarks/acceleration.py run          # anchored and auto on 8 other people x 4 prompts, on every family
    python benchmarks/acceleration.py table        # benchmarks/results/acceleration-*.md, plots and pictures

`search` and `run` go on where they were interrupted; `--families a,b` and `--rules a,b` do a part, so that two may run
at once. Everything but the guidance loss is judged by networks that no loss uses (see `guideflow_avatars.judges`).
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable

import torch
from accelerations import LBFGS, Anderson, Graded, Moments, NormCap
from avatars import (
    CACHE,
    FAMILIES,
    FIRST,
    HERE,
    PEOPLE,
    RESULTS,
    PairedIdentity,
    cases,
    features,
    kernel_distance,
    real_pictures,
    write_between,
)
from realism import naturalness
from torch import Tensor
from torch.nn import functional as F

import guideflow as gf
from guideflow_avatars import judges

LONG, SHORT = 100, 20  # iterations
AT = {LONG: (10, 20, 40, 100), SHORT: (5, 10, 20)}
PEOPLE |= {"acceleration-search": 4, "acceleration-run": 8}
FIRST |= {"acceleration-search": 32, "acceleration-run": 48}  # nobody is searched on and judged on
BATCH = 16
PAGE = HERE.parent / "docs" / "design" / "fewer-iterations.md"
IMAGES = HERE.parent / "docs" / "images"

Rule = tuple[Callable[[], gf.Solver], int]
RULES: dict[str, Rule] = {
    "anchored": (lambda: gf.Anchored(), LONG),
    "auto": (lambda: gf.load_solver("auto"), SHORT),
}
"""Judged on held-out people; the others only search."""
CANDIDATES: dict[str, Rule] = {
    "anchored, scale 4": (lambda: gf.Anchored(scale=4.0), SHORT),
    "anchored, annealed": (lambda: gf.Annealed(gf.Anchored(), start=8.0, end=0.4), SHORT),
    "flowgrad": (lambda: gf.FlowGrad(), SHORT),
    "flowgrad, scale 4": (lambda: gf.FlowGrad(scale=4.0), SHORT),
    "flowgrad, annealed": (lambda: gf.Annealed(gf.FlowGrad(), start=6.0, end=0.3), SHORT),
    "flowgrad, annealed, last control off": (lambda: gf.Annealed(Graded(gf.FlowGrad()), start=6.0, end=0.3), SHORT),
    "flowgrad, annealed, norm cap": (lambda: NormCap(gf.Annealed(gf.FlowGrad(), start=6.0, end=0.3)), SHORT),
    "flowgrad, annealed, moments": (lambda: Moments(gf.Annealed(gf.FlowGrad(), start=6.0, end=0.3)), SHORT),
    "momentum .9": (lambda: gf.Momentum(gf.FlowGrad()), SHORT),
    "momentum .5, annealed": (lambda: gf.Momentum(gf.Annealed(gf.FlowGrad(), start=3.0, end=0.3), beta=0.5), SHORT),
    "trust region": (lambda: gf.TrustRegion(gf.FlowGrad()), SHORT),
    "Polyak": (lambda: gf.Polyak(gf.FlowGrad()), SHORT),
    "Anderson": (lambda: Anderson(gf.FlowGrad(scale=2.0)), SHORT),
    "L-BFGS": (lambda: LBFGS(gf.FlowGrad()), SHORT),
    "noise descent, unit gradient": (
        lambda: gf.NoiseDescent(unit_gradient=True, scale=4.0, l2=0.1),
        SHORT,
    ),
}
MEASURES = {  # name -> whether higher is better
    "loss": False,
    "judge": True,
    "prompt": True,
    "real": True,
    "kid": False,
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
    """Solve every case, in batches."""
    make, iterations = (RULES | CANDIDATES)[name]
    references, prompts, seeds, _ = cases(part)
    sampler = gf.load_sampler(f"avatars-{family}")
    found: dict[str, list[Tensor]] = {}

    def note(progress: gf.callbacks.Progress) -> None:
        if progress.iteration in (0, *AT[iterations]):
            found.setdefault(str(progress.iteration), []).append(progress.state.rollout.images)

    for start in range(0, len(prompts), BATCH):
        rows = slice(start, start + BATCH)
        gf.solve(
            sampler,
            PairedIdentity(references[rows]),
            prompt=prompts[rows],
            seed=seeds[rows],
            solver=make(),
            max_iterations=iterations,
            callback=note,
        )
        print(f"{part} {family} {name} {min(start + BATCH, len(prompts))}/{len(prompts)}", flush=True)
    return {key: torch.cat(batches) for key, batches in found.items()}


@torch.no_grad()
def measure(images: Tensor, part: str) -> dict[str, Tensor]:
    """Every measure of every picture."""
    references, prompts, _, _ = cases(part)
    return {
        "loss": PairedIdentity(references)(images),
        "judge": judges.identity_similarity(images, references),
        "prompt": judges.prompt_accuracy(images, prompts).float(),
        "real": naturalness(images),
        "features": features(images),
    }


def search() -> None:
    """Every rule on `avatars-perflow`, with people whom `run` does not see."""
    part = "acceleration-search"
    renders, _ = real_pictures()
    real = features(renders)
    rows = []
    for name, (_, iterations) in (RULES | CANDIDATES).items():
        pictures = solved(part, "perflow", name)
        for at in ("0", *map(str, AT[iterations])) if name == "anchored" else map(str, AT[iterations]):
            found = measure(pictures[at], part)
            row = {"rule": name, "iterations": int(at)}
            row |= {key: found[key].mean().item() for key in ("loss", "judge", "prompt", "real")}
            row["kid"] = kernel_distance(found["features"], real)
            rows.append(row)
            print(json.dumps(row), flush=True)
    report = {"date": str(datetime.date.today()), "cases": len(pictures["5"]), "rows": rows}
    (RESULTS / "acceleration-search.json").write_text(json.dumps(report, indent=1) + "\n")


def run(families: list[str], rules: list[str]) -> None:
    """Both rules on people whom the search did not see, with paired differences."""
    part = "acceleration-run"
    for family in families:
        for name in rules:
            solved(part, family, name)
    if set(families) != set(FAMILIES) or set(rules) != set(RULES):
        return
    renders, _ = real_pictures()
    real = features(renders)
    report: dict = {"date": str(datetime.date.today()), "families": {}}
    pooled: dict[str, list[dict[str, Tensor]]] = {"unguided": [], "anchored": [], "auto": []}
    for family in families:
        pictures = {"unguided": solved(part, family, "anchored")["0"]}
        pictures["anchored"] = solved(part, family, "anchored")[str(LONG)]
        pictures["auto"] = solved(part, family, "auto")[str(SHORT)]
        found = {name: measure(images, part) for name, images in pictures.items()}
        report["families"][family] = summary(found, real)
        print(family, json.dumps(report["families"][family]), flush=True)
        for name, values in found.items():
            pooled[name].append(values)
    together = {
        name: {key: torch.cat([each[key] for each in values]) for key in values[0]} for name, values in pooled.items()
    }
    report |= {"all": summary(together, real), "cases": len(pictures["auto"])}
    (RESULTS / "acceleration.json").write_text(json.dumps(report, indent=1) + "\n")


def summary(found: dict[str, dict[str, Tensor]], real: Tensor) -> dict:
    """Means, and the difference auto - anchored with its 95 % interval: paired bootstrap over the cases."""
    count = len(found["auto"]["loss"])
    rows: dict = {}
    for name, values in found.items():
        rows[name] = {key: values[key].mean().item() for key in ("loss", "judge", "prompt", "real")}
        rows[name]["kid"] = kernel_distance(values["features"], real)
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(count, (1000, count), generator=generator)
    rows["difference"] = {}
    kernels = {name: Kernel(values["features"], real) for name, values in found.items()}
    for key in MEASURES:
        if key == "kid":
            samples = [kernels["auto"].distance(rows_) - kernels["anchored"].distance(rows_) for rows_ in draws]
            sampled = torch.tensor(samples)
        else:
            sampled = (found["auto"][key] - found["anchored"][key])[draws].mean(1)
        low, high = sampled.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        mean = rows["auto"][key] - rows["anchored"][key]
        rows["difference"][key] = {"mean": mean, "low": low, "high": high}
    return rows


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


def table() -> None:
    """Write the tables into the page, and draw the front and the pictures."""
    report = json.loads((RESULTS / "acceleration.json").read_text())
    lines = [
        "| family | | guidance loss | held-out judge | prompt | log-odds of being real | KID |",
        "|---|---|---|---|---|---|---|",
    ]
    for family, rows in [*report["families"].items(), ("all together", report["all"])]:
        titles = {"unguided": "unguided", "anchored": f"anchored, {LONG}", "auto": f"auto, {SHORT}"}
        title = f"`avatars-{family}`" if family in report["families"] else family
        for name, shown in titles.items():
            cells = [
                f"{rows[name][key]:.2f}" if key in ("real", "kid") else f"{rows[name][key]:.3f}" for key in MEASURES
            ]
            lines.append(f"| {title if name == 'unguided' else ''} | {shown} | {' | '.join(cells)} |")
        cells = []
        for key, row in rows["difference"].items():
            digits = 2 if key in ("real", "kid") else 3
            cells.append(f"{row['low']:+.{digits}f} to {row['high']:+.{digits}f}: {verdict(key, row)}")
        lines.append(f"| | difference | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "acceleration.md").write_text(text)
    caption = (
        f"{report['cases']} pairs of a held-out person and a held-out prompt for each family, none of them seen in the "
        f"search; differences are auto at {SHORT} iterations less anchored at {LONG}, with 95 % intervals of a paired "
        f"bootstrap over the pairs. Measured on a 2-core CPU, {report['date']}, by `python benchmarks/acceleration.py "
        "run` and `table`."
    )
    write_between(PAGE, "acceleration", f"{caption}\n\n{text}")
    report = json.loads((RESULTS / "acceleration-search.json").read_text())
    lines = [
        "| rule | iterations | guidance loss | held-out judge | prompt | log-odds of being real | KID |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        cells = [f"{row[key]:.2f}" if key in ("real", "kid") else f"{row[key]:.3f}" for key in MEASURES]
        lines.append(f"| {row['rule']} | {row['iterations']} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "acceleration-search.md").write_text(text)
    caption = (
        f"`avatars-perflow`, {report['cases']} pairs that serve the search only. Measured on a 2-core CPU, "
        f"{report['date']}, by `python benchmarks/acceleration.py search` and `table`."
    )
    write_between(PAGE, "search", f"{caption}\n\n{text}")
    draw_front(report["rows"])
    draw_pictures()


def draw_front(rows: list[dict]) -> None:
    """Likeness by the judge against naturalness, one line for each rule."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4.4), layout="constrained", sharey=True)
    colours = plt.get_cmap("tab20").colors
    names = list(dict.fromkeys(row["rule"] for row in rows))
    for panel, key, label in ((panels[0], "real", "log-odds of being real"), (panels[1], "kid", "KID to real renders")):
        for name, colour in zip(names, colours * 2, strict=False):
            mine = [row for row in rows if row["rule"] == name and row["iterations"] > 0]
            style = {
                "color": "black" if name == "auto" else colour,
                "lw": 2.4 if name in RULES else 1.0,
                "marker": "o",
                "ms": 5 if name in RULES else 3,
            }
            panel.plot([row[key] for row in mine], [row["judge"] for row in mine], label=name, **style)
            panel.annotate(
                str(mine[-1]["iterations"]), (mine[-1][key], mine[-1]["judge"]), fontsize=6, color=style["color"]
            )
        panel.set(xlabel=f"{label}, {'more' if key == 'real' else 'less'} is more natural")
        panel.spines[["top", "right"]].set_visible(False)
    panels[1].invert_xaxis()
    panels[0].set(ylabel="likeness, held-out judge")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right", frameon=False, fontsize=7)
    figure.savefig(IMAGES / "fewer-iterations.png", dpi=130)


def draw_pictures() -> None:
    """For each family a row of people: reference, unguided, anchored and auto."""
    part = "acceleration-run"
    references, *_ = cases(part)
    shown = range(0, len(references), max(1, len(references) // 4))
    rows = []
    for family in FAMILIES:
        long, short = solved(part, family, "anchored"), solved(part, family, "auto")
        for i in list(shown)[:4]:
            rows += [references[i], long["0"][i], long[str(LONG)][i], short[str(SHORT)][i]]
    sheet = F.interpolate(gf.images.grid(torch.stack(rows), columns=16), scale_factor=1.5, mode="bilinear")
    gf.images.save_image(IMAGES / "fewer-iterations-pictures.png", sheet, {})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("search", "run", "table"))
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--rules", default="")
    options = parser.parse_args()
    if options.what == "search":
        if options.rules:
            for name in options.rules.split(";"):
                solved("acceleration-search", "perflow", name)
        else:
            search()
    elif options.what == "run":
        run(options.families.split(","), options.rules.split(";") if options.rules else list(RULES))
    else:
        table()


if __name__ == "__main__":
    main()
