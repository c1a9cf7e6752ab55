"""Asks how far `auto` gets in a short time, and how natural its pictures stay, in the avatars world.

    python tools/avatars/render.py --train 0       # held-out renders, once
    python benchmarks/realism.py solve             # what the judge of naturalness learns from, once; and then train
    python benchmarks/acceleration.py search       # every rule on 4 people x 4 prompts, on avatars-perflow
    python benchmarks/acceleration.py grid         # settings of `auto` that cost the same, on 8 people x 4 prompts
    python benchmarks/acceleration.py run          # the rules compared on 32 other people x 2 prompts, on every family
    python benchmarks/acceleration.py polish       # what a last pass without guidance changes in pictures of `run`
    python benchmarks/acceleration.py time         # what they cost; on a CPU in processor time
    python benchmarks/acceleration.py table        # benchmarks/results/acceleration*.md, plots and pictures

`search` and `run` go on where they were interrupted; `--families a,b` and `--rules a;b` do a part, so that two may run
at once. Everything but the guidance loss is judged by networks that no loss uses (see `guideflow_avatars.judges`).
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

import torch
from accelerations import LBFGS, Anderson, ByLevel, Moments, NormCap
from avatars import (
    CACHE,
    DEVICE,
    FAMILIES,
    FIRST,
    PEOPLE,
    PROMPTS,
    RESULTS,
    PairedIdentity,
    cases,
    denoise_error,
    features,
    kernel_distance,
    load_sampler,
    machine,
    preset_options,
    real_pairs,
    renders,
)
from realism import naturalness, trained
from torch import Tensor

import guideflow as gf
from guideflow import registry
from guideflow.solvers import Outlook
from guideflow.solvers.outlook import renoise
from guideflow_avatars import judges

LONG, SHORT, QUICK = 100, 20, 12  # iterations
AT = {LONG: (10, 20, 40, 100), SHORT: (5, 10, 20), QUICK: (4, 8, 12), 24: (8, 16, 24), 9: (3, 6, 9), 7: (3, 5, 7)}
AT |= {0: (), 3: (1, 2, 3), 5: (1, 3, 5), 6: (2, 4, 6), 8: (3, 5, 8)}
PEOPLE |= {"acceleration-search": 4, "acceleration-run": 32}
FIRST |= {"acceleration-search": 32, "acceleration-run": 200}  # nobody is searched on and judged on
PROMPTS["acceleration-run"] = 2
BATCH, TIMED, REPEATS = 64 if DEVICE == "cuda" else 16, 4, 2


class Rule(NamedTuple):
    """A solver, for a sampler; in how many iterations and from the best of how many noises, None for its own number."""

    make: Callable[[gf.Sampler], gf.Solver]
    iterations: int | None = SHORT
    candidates: int | None = 1
    radius: float = 1.0


def annealed(sampler: gf.Sampler, *, decay: float = 0.015, clip: float | None = None, start: float = 8.0) -> gf.Solver:
    """FlowGrad in steps that grow short and forget; the noise of a sampler of one step moves too."""
    rule = gf.FlowGrad(decay=decay, noise=float(sampler.num_steps == 1), clip=clip)
    return gf.Annealed(rule, start=start, end=0.25)


def plain() -> gf.Annealed:
    """FlowGrad in steps that grow short."""
    return gf.Annealed(gf.FlowGrad(), start=6.0, end=0.3)


def clean(
    sampler: gf.Sampler, *, decay: float = 0.02, start: float = 5.0, noise: float = 3.0, clip: float | None = 0.03
) -> gf.Solver:
    """`auto`, to be varied: the same without the control after the last window."""
    rule = gf.FlowGrad(decay=decay, noise=noise * (sampler.num_steps == 1), clip=clip)
    return gf.Annealed(gf.Windows(rule), start=start, end=0.25)


def default(sampler: gf.Sampler) -> gf.Solver:
    """Return what `gf.solve(sampler, avatars_identity)` guides with: `auto`, with its preset where there is one."""
    return gf.Auto(**preset_options(registry.config(sampler)["name"].removeprefix("avatars-")))


RULES = {
    "unguided": Rule(lambda sampler: gf.FlowGrad(), 0),
    "auto, no preset": Rule(lambda sampler: gf.Auto(), None, gf.Auto().candidates),
    "auto": Rule(default, None, None),
}
"""Judged on held-out people; the others only search."""
CANDIDATES = {
    "annealed": Rule(annealed),
    "anchored": Rule(lambda k: gf.Anchored(), LONG),
    "auto, last control on": Rule(lambda k: annealed(k, decay=0.02, clip=0.03, start=5.0), QUICK, 16),
    "auto, of 1 noise": Rule(clean, QUICK, 1),
    "auto, of 32 noises": Rule(clean, QUICK, 32),
    "auto, of a walk": Rule(clean, QUICK, 16, 0.7),
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
SETTINGS = (
    *((QUICK, 16, start, decay) for start, decay in ((8, 0), (8, 0.01), (12, 0), (12, 0.01), (12, 0.02), (16, 0.01))),
    *((9, 24, start, decay) for start, decay in ((8, 0), (12, 0), (12, 0.01), (16, 0.01))),
    *((7, 32, start, 0) for start in (12, 16)),
)
"""Of `auto`: iterations, noises, first step and decay. All take about the same time."""
GRID = {
    f"auto, start {start:g}, decay {decay:g}, {n} iterations of {m} noises": Rule(
        functools.partial(clean, start=start, decay=decay), n, m
    )
    for n, m, start, decay in SETTINGS
}
ONE_STEP = {f"auto, noise {noise:g}": Rule(functools.partial(clean, noise=noise), QUICK, 16) for noise in (3, 5, 8, 12)}
PEOPLE["acceleration-grid"], FIRST["acceleration-grid"] = 8, FIRST["acceleration-search"]
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
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


def stored(part: str, family: str, name: str) -> Path:
    """Where the pictures of a rule are remembered."""
    return CACHE / f"{part}{PEOPLE[part]}-{family}-{name.replace(' ', '_').replace(',', '')}.pt"


def solved(part: str, family: str, name: str) -> dict[str, Tensor]:
    """Pictures of every case at the iterations of `AT`, remembered on disk."""
    path = stored(part, family, name)
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        torch.save(solve(part, family, name), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    return torch.load(path, weights_only=True)


def solve(part: str, family: str, name: str) -> dict[str, Tensor]:
    """Solve every case, in batches: images and latents by iteration, and those that `solve` keeps."""
    rule = (RULES | CANDIDATES | GRID | ONE_STEP)[name]
    references, prompts, seeds, _ = cases(part)
    sampler = load_sampler(f"avatars-{family}")
    found: dict[str, list[Tensor]] = {}

    def note(progress: gf.callbacks.Progress) -> None:
        rollout = progress.state.rollout
        if progress.iteration in (0, *AT[progress.max_iterations]):
            found.setdefault(str(progress.iteration), []).append(rollout.images.cpu())
            found.setdefault(f"latents {progress.iteration}", []).append(rollout.states[-1].cpu())
        images, latents, lowest = kept or (rollout.images, rollout.states[-1], torch.full_like(rollout.loss, torch.inf))
        better = (rollout.loss < lowest).view(-1, 1, 1, 1)
        kept[:] = (
            torch.where(better, rollout.images, images),
            torch.where(better, rollout.states[-1], latents),
            torch.minimum(rollout.loss, lowest),
        )

    for start in range(0, len(prompts), BATCH):
        rows, kept = slice(start, start + BATCH), list[Tensor]()
        gf.solve(
            sampler,
            PairedIdentity(references[rows]),
            prompt=prompts[rows],
            seed=seeds[rows],
            solver=rule.make(sampler),
            max_iterations=rule.iterations,
            candidates=rule.candidates,
            candidate_radius=rule.radius,
            callback=note,
        )
        found.setdefault("kept", []).append(kept[0].cpu())
        found.setdefault("latents kept", []).append(kept[1].cpu())
        print(f"{part} {family} {name} {min(start + BATCH, len(prompts))}/{len(prompts)}", flush=True)
    return {key: torch.cat(batches) for key, batches in found.items()}


@torch.no_grad()
def measure(solved: dict[str, Tensor], at: int | str, part: str) -> dict[str, Tensor]:
    """Every measure of every picture of an iteration, or of those that are kept; by patches if that judge is there."""
    references, prompts, _, _ = cases(part)
    images = solved[str(at)]
    return {
        "loss": PairedIdentity(references)(images.to(DEVICE)).cpu(),
        "judge": judges.identity_similarity(images, references),
        "prompt": judges.prompt_accuracy(images, prompts).float(),
        "denoise": denoise_error(solved[f"latents {at}"], prompts),
        "features": features(images),
    } | ({"real": naturalness(images)} if trained() else {})


def search() -> None:
    """Every rule on `avatars-perflow`, with people whom `run` does not see; rules that have rows keep them."""
    part = "acceleration-search"
    real = features(renders())
    path = RESULTS / "acceleration-search.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    rules = {"annealed": CANDIDATES["annealed"], "auto, no preset": RULES["auto, no preset"], **CANDIDATES}
    for name, rule in rules.items():
        if any(row["rule"] == name for row in rows):
            continue
        pictures = solved(part, "perflow", name)
        for at in (0, *AT[rule.iterations or QUICK]) if name == "annealed" else AT[rule.iterations or QUICK]:
            found = measure(pictures, at, part)
            row = {"rule": name, "iterations": at, "candidates": rule.candidates}
            row |= {key: found[key].mean().item() for key in MEASURES if key in found}
            row["kid"] = kernel_distance(found["features"], real)
            rows.append(row)
            print(json.dumps(row), flush=True)
    order = list(rules)
    rows.sort(key=lambda row: order.index(row["rule"]))
    report = {"date": str(datetime.date.today()), "machine": machine(), "cases": len(cases(part)[1]), "rows": rows}
    path.write_text(json.dumps(report, indent=1) + "\n")


def grid() -> None:
    """Settings of `auto` at equal time on two families; how far the noise moves, on the family of one step."""
    part, rows = "acceleration-grid", []
    joint = {"annealed": CANDIDATES["annealed"], "auto, no preset": RULES["auto, no preset"], **GRID}
    for families, rules in ((("perflow", "turbo"), joint), (("instaflow",), ONE_STEP)):
        for family in families:
            for name, rule in rules.items():
                pictures = solved(part, family, name)
                for at in (0, rule.iterations) if name == "annealed" else (rule.iterations or QUICK,):
                    found = {key: value.mean().item() for key, value in measure(pictures, at, part).items()}
                    row = {"family": family, "rule": name, "iterations": at, "candidates": rule.candidates}
                    rows.append(row | {key: found[key] for key in ("loss", "judge", "prompt", "denoise")})
                    print(json.dumps(rows[-1]), flush=True)
    report = {"date": str(datetime.date.today()), "machine": machine(), "cases": len(cases(part)[1]), "rows": rows}
    (RESULTS / "acceleration-grid.json").write_text(json.dumps(report, indent=1) + "\n")


def run(families: list[str], rules: list[str]) -> None:
    """The rules on people whom the search did not see, with paired differences; other families keep their rows."""
    part, measured = "acceleration-run", {}
    for family in families:
        found = measured[family] = {name: measure(solved(part, family, name), "kept", part) for name in rules}
        for name, values in found.items():
            print(family, name, {key: round(values[key].mean().item(), 4) for key in MEASURES if key in values})
    if set(rules) != set(RULES):
        return
    real = features(renders())
    path = RESULTS / "acceleration.json"
    report: dict = json.loads(path.read_text()) if path.exists() else {"families": {}}
    report |= {"date": str(datetime.date.today()), "two real pictures": real_pairs(cases(part)[3])}
    report["cases"] = len(cases(part)[1])
    for family, found in measured.items():
        about = {"machine": machine(), "preset": preset_options(family)}
        report["families"][family] = summary({name: found[name] for name in RULES}, real) | about
        print(family, json.dumps(report["families"][family]), flush=True)
    report["families"] = {family: report["families"][family] for family in FAMILIES if family in report["families"]}
    rows = list(report["families"].values())
    report["all"] = {
        name: {key: statistics.fmean(row[name][key] for row in rows) for key in rows[0][name]} for name in RULES
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def summary(found: dict[str, dict[str, Tensor]], real: Tensor) -> dict:
    """Means, and the differences auto - others with their 95 % intervals: paired bootstrap over the cases."""
    count = len(found["auto"]["loss"])
    rows: dict = {}
    for name, values in found.items():
        rows[name] = {key: values[key].mean().item() for key in MEASURES if key in values}
        rows[name]["kid"] = kernel_distance(values["features"], real)
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(count, (1000, count), generator=generator)
    kernels = {name: Kernel(values["features"], real) for name, values in found.items()}
    rows["differences"] = {}
    for other in found:
        if other == "auto":
            continue
        row = rows["differences"][other] = {}
        for key in (*rows["auto"],):
            if key == "kid":
                samples = [kernels["auto"].distance(rows_) - kernels[other].distance(rows_) for rows_ in draws]
                sampled = torch.tensor(samples)
            else:
                sampled = (found["auto"][key] - found[other][key])[draws].mean(1)
            low, high = sampled.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
            row[key] = {"mean": rows["auto"][key] - rows[other][key], "low": low, "high": high}
    return rows


@torch.no_grad()
def polish(families: list[str]) -> None:
    """What `run` keeps of `auto` without a preset, polished by several shares; other families keep their rows."""
    part, path = "acceleration-run", RESULTS / "acceleration-polish.json"
    _, prompts, _, _ = cases(part)
    report: dict = json.loads(path.read_text()) if path.exists() else {"families": {}}
    for family in families:
        sampler = load_sampler(f"avatars-{family}")
        outlook, k = Outlook.of(sampler.schedule), sampler.num_steps - 1
        if k == 0:
            continue
        z = solved(part, family, "auto, no preset")["latents kept"].to(DEVICE)
        z, polished = z.to(sampler.state_dtype), []
        for start in range(0, len(z), BATCH):
            rows = slice(start, start + BATCH)
            noise = gf.draw_noise(sampler, range(start, start + len(z[rows]))).initial
            polished.append(sampler.step(k, renoise(outlook, k, z[rows], noise), sampler.condition(prompts[rows])))
        lines = report["families"][family] = {}
        for share in SHARES:
            latents = (1 - share) * z + share * torch.cat(polished)
            images = torch.cat([sampler.decode(some) for some in latents.split(BATCH)]).cpu()
            found = measure({"kept": images, "latents kept": latents.cpu()}, "kept", part)
            lines[str(share)] = {key: found[key].mean().item() for key in ("loss", "judge", "prompt", "denoise")}
            print(family, share, json.dumps(lines[str(share)]), flush=True)
    report |= {"date": str(datetime.date.today()), "machine": machine(), "cases": len(prompts)}
    path.write_text(json.dumps(report, indent=1) + "\n")


def time(families: list[str]) -> None:
    """Seconds of a whole solve of each rule, the least of interleaved repeats; other families keep theirs."""
    clock = perf_counter if DEVICE == "cuda" else process_time
    references, prompts, seeds, _ = cases("acceleration-search")
    path, loss, found = RESULTS / "acceleration.json", PairedIdentity(references[:TIMED]), {}
    for family in families:
        sampler = load_sampler(f"avatars-{family}")
        seconds: dict[str, list[float]] = {name: [] for name in RULES}
        for _ in range(REPEATS):
            for name, rule in RULES.items():
                began = clock()
                gf.solve(
                    sampler,
                    loss,
                    prompt=prompts[:TIMED],
                    seed=seeds[:TIMED],
                    solver=rule.make(sampler),
                    max_iterations=rule.iterations,
                    candidates=rule.candidates,
                )
                seconds[name].append(clock() - began)
        found[family] = {name: min(values) for name, values in seconds.items()}
        print(family, json.dumps(found[family]), flush=True)
    report = json.loads(path.read_text())
    report |= {"seconds": report.get("seconds", {}) | found, "timed on": machine()}
    path.write_text(json.dumps(report, indent=1) + "\n")


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


def table() -> None:
    """Write the tables into the page, and draw the front and the pictures."""
    import acceleration_page

    acceleration_page.write()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("search", "grid", "run", "polish", "time", "table"))
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--rules", default="", help="names with semicolons between them")
    options = parser.parse_args()
    if options.what == "search" and options.rules:
        for name in options.rules.split(";"):
            solved("acceleration-search", "perflow", name)
    elif options.what == "polish":
        polish(options.families.split(","))
    elif options.what == "run":
        run(options.families.split(","), options.rules.split(";") if options.rules else list(RULES))
    elif options.what == "time":
        time(options.families.split(","))
    else:
        {"search": search, "grid": grid, "table": table}[options.what]()


if __name__ == "__main__":
    main()
