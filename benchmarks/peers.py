"""Compares the solvers of other papers with our own, on the same work and against the clock, in the avatars world.

    python tools/avatars/render.py --train 0    # held-out renders, once
    python benchmarks/peers.py search           # every setting of every solver, on 4 people x 4 prompts
    python benchmarks/peers.py run              # each at its best, on 32 other people x 2 prompts, three families
    python benchmarks/peers.py time             # what they cost, with nothing else running
    python benchmarks/peers.py table            # benchmarks/results/peers.md and peers.png
    python benchmarks/peers.py check            # all of it at the smallest size, into benchmarks/cache/peers-check

`search` and `run` go on where they were interrupted; `--families a,b` and `--solvers a,b` do a part of them. Likeness
is judged by a recogniser that no loss uses, naturalness by the denoising error of the generators' teacher. What a
solver reaches in a time is compared with what plain best-of-N reaches in it: drawing noises, without any gradient.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from avatars import CACHE, FIRST, PEOPLE, PROMPTS, RESULTS, PairedIdentity, cases, denoise_error
from official import Official
from torch import Tensor

import guideflow as gf
from guideflow_avatars import judges

FAMILIES = ("perflow", "rectified-flow", "pcm")
SEARCHED = "perflow"
PEOPLE |= {"peers-search": 4, "peers-run": 32}
FIRST |= {"peers-search": 32, "peers-run": 240}  # nobody is searched on and judged on
PROMPTS["peers-run"] = 2
BATCH, REPEATS, TIMED = 16, 3, 8
MEASURES = ("judge", "denoise", "prompt", "loss")


class Method(NamedTuple):
    """A solver, the settings to choose from, the iterations at which it is looked at, and the noises to start from."""

    make: Callable[..., gf.Solver]
    settings: list[dict[str, Any]]
    at: tuple[int, ...]
    candidates: int = 1


def scales(*values: float, **others: Any) -> list[dict[str, Any]]:
    """Settings that differ in the scale."""
    return [{"scale": value, **others} for value in values]


METHODS = {
    "best-of": Method(gf.solvers.BestOf, [{}], (1, 2, 5, 10, 20, 40, 80)),
    "auto": Method(gf.Auto, scales(0.5, 1.0), (3, 6, 12), 16),
    "anchored": Method(gf.Anchored, scales(1.0, 2.0, 4.0), (5, 10, 20, 50)),
    "rectifid": Method(Official, [{"lr": lr} for lr in (0.35, 1.0, 2.0)], (5, 10, 20, 50)),
    "flowgrad": Method(gf.FlowGrad, scales(0.5, 1.0, 2.0), (5, 10, 20, 50)),
    "noise-descent": Method(
        gf.NoiseDescent,
        [{"lr": 0.4}, {"lr": 0.1}, {"unit_gradient": True, "scale": 4.0, "l2": 0.1}],
        (5, 10, 20, 50),
    ),
    "reno": Method(gf.solvers.ReNO, [{"lr": lr} for lr in (5.0, 15.0)], (5, 10, 20, 50)),
    "dno": Method(gf.solvers.DNO, [{"lr": lr} for lr in (0.01, 0.03)], (5, 10, 20, 50)),
    "sweep": Method(gf.solvers.Sweep, [{"moves": 8}, {"moves": 4}, {"moves": 8, "above": 0.3}], (8, 16, 24), 16),
    "flowchef": Method(gf.solvers.FlowChef, scales(2.0, 8.0), (1, 3, 10, 30)),
    "mpgd": Method(gf.solvers.MPGD, scales(2.0, 8.0), (1, 3, 10, 30)),
    "universal": Method(gf.solvers.Universal, [*scales(2.0, 8.0), *scales(8.0, repeats=2)], (1, 3, 10)),
    "tfg": Method(gf.solvers.TFG, [*scales(2.0, 8.0), *scales(8.0, draws=2, repeats=2)], (1, 3, 10)),
}


class Watch:
    """Keeps the pictures of lowest loss so far, as `solve` does, and measures them at some iterations."""

    def __init__(self, at: tuple[int, ...], references: Tensor, prompts: list[str]) -> None:
        """Watch a batch of cases."""
        self.at, self.references, self.prompts = (0, *at), references, prompts
        self.loss = torch.full((len(prompts),), torch.inf)
        self.images = self.latents = torch.empty(0)
        self.found: dict[str, dict[str, Tensor]] = {}

    def __call__(self, progress: gf.callbacks.Progress) -> None:
        """Look at one iteration."""
        rollout = progress.state.rollout
        if progress.iteration == 0:
            self.images, self.latents = rollout.images, rollout.states[-1]
        better = (rollout.loss < self.loss).view(-1, 1, 1, 1)
        self.images = torch.where(better, rollout.images, self.images)
        self.latents = torch.where(better, rollout.states[-1], self.latents)
        self.loss = torch.minimum(self.loss, rollout.loss.nan_to_num(torch.inf))
        if progress.iteration in self.at:
            self.found[str(progress.iteration)] = {
                "judge": judges.identity_similarity(self.images, self.references),
                "denoise": denoise_error(self.latents, self.prompts),
                "prompt": judges.prompt_accuracy(self.images, self.prompts).float(),
                "loss": self.loss.clone(),
            }


def label(name: str, setting: dict[str, Any]) -> str:
    """Name a solver with its setting."""
    return "-".join([name, *(f"{key}={value}" for key, value in setting.items())])


def measured(part: str, family: str, name: str, setting: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Every measure of every case, by iteration; remembered on disk."""
    path = CACHE / f"{part}{PEOPLE[part]}x{PROMPTS.get(part, 4)}-{family}-{label(name, setting)}.pt"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        torch.save(solve(part, family, name, setting), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    return torch.load(path, weights_only=True)


def solve(part: str, family: str, name: str, setting: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Solve every case, in batches."""
    method, (references, prompts, seeds, _) = METHODS[name], cases(part)
    sampler, found = gf.load_sampler(f"avatars-{family}"), []
    for start in range(0, len(prompts), BATCH):
        rows = slice(start, start + BATCH)
        watch = Watch(method.at, references[rows], prompts[rows])
        gf.solve(
            sampler,
            PairedIdentity(references[rows]),
            prompt=prompts[rows],
            seed=seeds[rows],
            solver=method.make(**setting),
            max_iterations=method.at[-1],
            candidates=method.candidates,
            callback=watch,
        )
        found.append(watch.found)
        print(f"{part} {family} {label(name, setting)} {min(start + BATCH, len(prompts))}/{len(prompts)}", flush=True)
    return {at: {key: torch.cat([one[at][key] for one in found]) for key in MEASURES} for at in found[0]}


def means(found: dict[str, Tensor]) -> dict[str, float]:
    """The mean of each measure; of the prompt, over what it asks for."""
    return {key: found[key].nanmean().item() for key in MEASURES}


def search(solvers: list[str], results: Path) -> None:
    """Choose each solver's setting by likeness at its last look, less a quarter of what the denoising error grew by."""
    plain = means(measured("peers-search", SEARCHED, "best-of", {})["0"])
    chosen = {}
    for name in solvers:
        rows = []
        for setting in METHODS[name].settings:
            last = means(measured("peers-search", SEARCHED, name, setting)[str(METHODS[name].at[-1])])
            value = last["judge"] - 0.25 * (last["denoise"] / plain["denoise"] - 1)
            rows.append({"setting": setting, **last, "value": value})
            print(name, json.dumps(rows[-1]), flush=True)
        chosen[name] = {"best": max(rows, key=lambda row: row["value"])["setting"], "rows": rows}
    path = results / "peers-search.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    both = before | chosen
    path.write_text(json.dumps({name: both[name] for name in METHODS if name in both}, indent=1) + "\n")


def settings(results: Path) -> dict[str, dict[str, Any]]:
    """What the search has chosen."""
    path = results / "peers-search.json"
    if not path.exists():
        raise SystemExit("No settings yet: type `python benchmarks/peers.py search` first.")
    return {name: row["best"] for name, row in json.loads(path.read_text()).items()}


def run(families: list[str], solvers: list[str], results: Path) -> None:
    """Every solver at its setting on people whom the search did not see; those solved before are read."""
    best, path = settings(results), results / "peers.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    report |= {"date": str(datetime.date.today()), "cases": len(cases("peers-run")[1])}
    for family in families:
        rows = report.setdefault("families", {}).setdefault(family, {})
        for name in (name for name in solvers if name in best):
            found = measured("peers-run", family, name, best[name])
            rows[name] = {at: means(values) for at, values in found.items()}
            path.write_text(json.dumps(report, indent=1) + "\n")


def time(families: list[str], solvers: list[str], results: Path) -> None:
    """Seconds from the start to each look, candidates included: medians of repeats in turns."""
    best, path = settings(results), results / "peers.json"
    references, prompts, seeds, _ = (one[:TIMED] for one in cases("peers-search"))
    loss, report = PairedIdentity(references), json.loads(path.read_text())
    for family in families:
        sampler = gf.load_sampler(f"avatars-{family}")
        seconds: dict[str, dict[str, list[float]]] = {name: {} for name in solvers if name in best}
        for repeat in range(REPEATS + 1):
            for name, looks in seconds.items():
                method = METHODS[name]

                def note(progress: gf.callbacks.Progress, at: Any = method.at, looks: Any = looks) -> None:
                    if progress.iteration in (0, *at):
                        looks.setdefault(str(progress.iteration), []).append(progress.seconds)

                gf.solve(
                    sampler,
                    loss,
                    prompt=prompts,
                    seed=seeds,
                    solver=method.make(**best[name]),
                    max_iterations=method.at[-1] if repeat else 0,  # the first round warms up
                    candidates=method.candidates,
                    callback=note if repeat else None,
                )
        found = {name: {at: statistics.median(each) for at, each in looks.items()} for name, looks in seconds.items()}
        report.setdefault("seconds", {}).setdefault(family, {}).update(found)
        print(family, json.dumps(found), flush=True)
        path.write_text(json.dumps(report, indent=1) + "\n")


def best_of_in(seconds: float, rows: dict[str, Any], clock: dict[str, Any]) -> float:
    """What best-of-N reaches in a time: likeness is taken to grow evenly in the logarithm of the time between looks."""
    curve = sorted((clock["best-of"][at], row["judge"]) for at, row in rows["best-of"].items())
    if seconds <= curve[0][0]:
        return curve[0][1]
    for (before, low), (after, high) in itertools.pairwise(curve):
        if seconds <= after:
            share = torch.tensor(seconds / before).log() / torch.tensor(after / before).log()
            return low + share.item() * (high - low)
    return curve[-1][1]


def table(results: Path) -> None:
    """Write the table, a line for each look at each solver, and draw likeness and naturalness against time."""
    report, best = json.loads((results / "peers.json").read_text()), settings(results)
    head = ("family", "solver", "setting", "iterations", "time", "judge", "best-of in that time", "denoise error")
    lines = [f"| {' | '.join([*head, 'prompt'])} |", "|" + "---|" * (len(head) + 1)]
    for family, rows in report["families"].items():
        clock = report["seconds"][family]
        unit, plain = clock["best-of"]["0"], rows["best-of"]["0"]
        start = f"{plain['judge']:.3f} | | {plain['denoise']:.4f} (1.00x) | {plain['prompt']:.3f}"
        lines.append(f"| `avatars-{family}` | unguided | | 0 | 1.0 | {start} |")
        for name, looks in rows.items():
            for at, row in looks.items():
                if at == "0":
                    continue
                seconds, text = clock[name][at], ", ".join(f"{key}={value}" for key, value in best[name].items())
                rival = f"{best_of_in(seconds, rows, clock):.3f}" if name != "best-of" else ""
                cells = [f"{seconds / unit:.1f}", f"{row['judge']:.3f}", rival]
                cells += [f"{row['denoise']:.4f} ({row['denoise'] / plain['denoise']:.2f}x)", f"{row['prompt']:.3f}"]
                lines.append(f"| | {name} | {text} | {at} | {' | '.join(cells)} |")
    text = (
        f"{report['cases']} pairs of a held-out person and a held-out prompt for each family, none of them seen in the "
        f"search; batches of {TIMED} for the time, whose unit is that of one unguided picture. Measured on a 2-core "
        f"CPU, {report['date']}, by `python benchmarks/peers.py search`, `run`, `time` and `table`.\n\n"
    )
    (results / "peers.md").write_text(text + "\n".join(lines) + "\n")
    print("\n".join(lines))
    draw(report, results / "peers.png")


def draw(report: dict[str, Any], path: Path) -> None:
    """For each family likeness against time, and against the denoising error; best-of-N in black."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    families = list(report["families"])
    figure, axes = plt.subplots(
        2, len(families), figsize=(3.6 * len(families) + 1.6, 6.4), layout="constrained", squeeze=False
    )
    colours = plt.get_cmap("tab20").colors
    for column, family in zip(axes.T, families, strict=True):
        rows, clock = report["families"][family], report["seconds"][family]
        unit, plain = clock["best-of"]["0"], rows["best-of"]["0"]["denoise"]
        for i, name in enumerate(METHODS):
            looks = rows.get(name, {})
            style: dict[str, Any] = {"color": colours[i % 20], "lw": 1.2, "marker": "o", "ms": 3, "label": name}
            style |= {"best-of": {"color": "black", "lw": 2.4}, "auto": {"lw": 2.4}}.get(name, {})
            judge = [row["judge"] for row in looks.values()]
            column[0].plot([clock[name][at] / unit for at in looks], judge, **style)
            column[1].plot([row["denoise"] / plain for row in looks.values()], judge, **style)
        column[0].set(title=f"avatars-{family}", xscale="log", xlabel="time, in unguided pictures")
        column[1].set(xlabel="denoise error, in that of unguided pictures")
        for axis in column:
            axis.spines[["top", "right"]].set_visible(False)
    for row in axes:
        row[0].set_ylabel("likeness, held-out judge")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right", frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)


def check(solvers: list[str]) -> None:
    """Everything once at the smallest size: one person and prompt, one family, two iterations of one setting."""
    global REPEATS
    folder = CACHE / "peers-check"
    folder.mkdir(parents=True, exist_ok=True)
    REPEATS = 1
    PEOPLE.update({"peers-search": 1, "peers-run": 1})
    PROMPTS.update({"peers-search": 1, "peers-run": 1})
    for name, method in METHODS.items():
        METHODS[name] = method._replace(settings=method.settings[-1:], at=(1, 2), candidates=min(method.candidates, 2))
    search(solvers, folder)
    run([SEARCHED], solvers, folder)
    time([SEARCHED], solvers, folder)
    table(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("search", "run", "time", "table", "check"))
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--solvers", default=",".join(METHODS))
    options = parser.parse_args()
    families, solvers = options.families.split(","), options.solvers.split(",")
    if unknown := (set(families) - set(FAMILIES)) | (set(solvers) - set(METHODS)):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. Known: {', '.join((*FAMILIES, *METHODS))}.")
    if options.what == "check":
        check(solvers)
    elif options.what == "search":
        search(solvers, RESULTS)
    elif options.what == "table":
        table(RESULTS)
    else:
        {"run": run, "time": time}[options.what](families, solvers, RESULTS)


if __name__ == "__main__":
    main()
