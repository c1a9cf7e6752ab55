"""Compares the solvers of other papers with our own, on the same work and against the clock, in the avatars world.

    python tools/avatars/render.py --train 0    # held-out renders, once
    python benchmarks/peers.py search           # every setting of every solver, on 4 people x 2 prompts
    python benchmarks/peers.py run              # each at its best, on 32 other people x 2 prompts, three families
    python benchmarks/peers.py time             # what they cost; minutes, with nothing else running
    python benchmarks/peers.py table            # benchmarks/results/peers.md, the pages' tables and the plot
    python benchmarks/peers.py check            # all of it at the smallest size, into benchmarks/cache/peers-check

`search` and `run` go on where they were interrupted; `--families a,b`, `--solvers a,b`, `--pairs N` (the first ones, so
that more of them go on from fewer) and `--iterations N` do a part of them. Likeness is judged by a recogniser that no
loss uses, naturalness by the denoising error of the generators' teacher. What a solver reaches in a time is compared
with what plain best-of-N reaches in it: drawing noises, without any gradient.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import torch
from avatars import (
    CACHE,
    FIRST,
    HERE,
    PEOPLE,
    PROMPTS,
    README,
    RESULTS,
    PairedIdentity,
    cases,
    denoise_error,
    machine,
    preset_options,
    write_between,
)
from official import Official
from torch import Tensor

import guideflow as gf
from guideflow_avatars import judges

FAMILIES = ("perflow", "rectified-flow", "pcm")
SEARCHED = "perflow"
PEOPLE |= {"peers-search": 4, "peers-run": 32}
FIRST |= {"peers-search": 32, "peers-run": 240}  # nobody is searched on and judged on
PROMPTS |= {"peers-search": 2, "peers-run": 2}
BATCH, TIMED, PASSES = 4, 8, 3  # iterations that are timed; each costs what the others do, but for `sweep`
PAGE, IMAGES = HERE.parent / "docs" / "design" / "fewer-iterations.md", HERE.parent / "docs" / "images"
MEASURES = ("judge", "denoise", "prompt", "loss")
FEW = 16  # pairs; of fewer nothing is told on the first page


class Method(NamedTuple):
    """A solver, the settings to choose from, the iterations at which it is looked at, and the noises to start from."""

    make: Callable[..., gf.Solver]
    settings: list[dict[str, Any]]
    at: tuple[int, ...]
    candidates: int | None = 1
    preset: bool = False

    def solver(self, family: str, setting: dict[str, Any]) -> gf.Solver:
        """Make the solver, with what its preset for a family adds where it is to have one."""
        return self.make(**(preset_options(family) if self.preset else {}), **setting)


def scales(*values: float, **others: Any) -> list[dict[str, Any]]:
    """Settings that differ in the scale."""
    return [{"scale": value, **others} for value in values]


METHODS = {
    "best-of": Method(gf.solvers.BestOf, [{}], (1, 2, 5, 10, 15)),
    "auto": Method(gf.Auto, [{}], (3, 6, 12), 16),
    "auto with its preset": Method(gf.Auto, [{}], (1, 3, 6), None, preset=True),
    "anchored": Method(gf.Anchored, scales(4.0), (5, 10, 20)),  # of 1 and 4 by the search of acceleration.py
    "rectifid": Method(Official, [{"lr": 1.0}], (5, 10, 20)),  # the script's own
    "flowgrad": Method(gf.FlowGrad, scales(1.0), (5, 10, 20)),  # of 1 and 4 by the same search
    "noise-descent": Method(
        gf.NoiseDescent, [{"unit_gradient": True, "scale": 4.0, "l2": 0.1}], (5, 10, 20)
    ),  # as there
    "reno": Method(gf.solvers.ReNO, [{"lr": lr} for lr in (5.0, 15.0)], (5, 10, 20)),
    "dno": Method(gf.solvers.DNO, [{"lr": lr} for lr in (0.03, 0.1)], (5, 10, 20)),
    "sweep": Method(gf.solvers.Sweep, [{}], (4, 8, 12), 16),
    "flowchef": Method(gf.solvers.FlowChef, scales(2.0, 8.0), (1, 3, 6)),
    "mpgd": Method(gf.solvers.MPGD, scales(2.0, 8.0), (1, 3, 6)),
    "universal": Method(gf.solvers.Universal, [*scales(2.0, 8.0), *scales(8.0, repeats=2)], (1, 2, 3)),
    "universal of 16": Method(gf.solvers.Universal, scales(8.0, repeats=2), (1, 2, 3), 16),
    "tfg": Method(gf.solvers.TFG, [*scales(2.0, 8.0), *scales(8.0, repeats=2)], (1, 2, 3)),
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


@functools.cache
def pairs_of(part: str) -> tuple[Tensor, list[str], list[int]]:
    """References, prompts and seeds: the first prompt of everybody comes before the second of anybody."""
    references, prompts, seeds, _ = cases(part)
    order = [i for first in range(PROMPTS[part]) for i in range(first, len(prompts), PROMPTS[part])]
    return references[order], [prompts[i] for i in order], [seeds[i] for i in order]


def label(name: str, setting: dict[str, Any]) -> str:
    """Name a solver with its setting."""
    return "-".join([name, *(f"{key}={value}" for key, value in setting.items())])


def measured(part: str, family: str, name: str, setting: dict[str, Any], pairs: int) -> dict[str, dict[str, Tensor]]:
    """Every measure of the first pairs, by iteration; each batch is remembered on disk."""
    found = []
    for start in range(0, pairs, BATCH):
        rows = slice(start, min(start + BATCH, pairs))
        path = CACHE / f"{part}-{family}-{label(name, setting)}-{METHODS[name].at[-1]}-{rows.start}-{rows.stop}.pt"
        if not path.exists():
            CACHE.mkdir(exist_ok=True)
            torch.save(solve(part, family, name, setting, rows), path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
            print(f"{part} {family} {label(name, setting)} {rows.stop}/{pairs}", flush=True)
        found.append(torch.load(path, weights_only=True))
    return {at: {key: torch.cat([one[at][key] for one in found]) for key in MEASURES} for at in found[0]}


def solve(part: str, family: str, name: str, setting: dict[str, Any], rows: slice) -> dict[str, dict[str, Tensor]]:
    """Solve a batch of pairs."""
    method, (references, prompts, seeds) = METHODS[name], pairs_of(part)
    watch = Watch(method.at, references[rows], prompts[rows])
    gf.solve(
        sampler(family),
        PairedIdentity(references[rows]),
        prompt=prompts[rows],
        seed=seeds[rows],
        solver=method.solver(family, setting),
        max_iterations=method.at[-1],
        candidates=method.candidates,
        callback=watch,
    )
    return watch.found


@functools.cache
def sampler(family: str) -> gf.Sampler:
    """The sampler of a family, loaded once."""
    return gf.load_sampler(f"avatars-{family}")


def means(found: dict[str, Tensor]) -> dict[str, float]:
    """The mean of each measure; of the prompt, over what it asks for."""
    return {key: found[key].nanmean().item() for key in MEASURES}


def search(solvers: list[str], results: Path, pairs: int) -> None:
    """Choose each solver's setting by likeness at its last look, less a quarter of what the denoising error grew by."""
    path = results / "peers-search.json"
    chosen: dict[str, Any] = json.loads(path.read_text())["solvers"] if path.exists() else {}
    for name in solvers:
        rows, settings = [], METHODS[name].settings
        for setting in settings if len(settings) > 1 else []:
            found = measured("peers-search", SEARCHED, name, setting, pairs)
            last, before = means(found[str(METHODS[name].at[-1])]), means(found["0"])["denoise"]
            value = last["judge"] - 0.25 * (last["denoise"] / before - 1)
            rows.append({"setting": setting, **last, "value": value})
            print(name, json.dumps(rows[-1]), flush=True)
        chosen[name] = {
            "best": max(rows, key=lambda row: row["value"])["setting"] if rows else settings[0],
            "rows": rows,
        }
        report = {"date": str(datetime.date.today()), "pairs": pairs}
        report["solvers"] = {name: chosen[name] for name in METHODS if name in chosen}
        path.write_text(json.dumps(report, indent=1) + "\n")


def settings(results: Path) -> dict[str, dict[str, Any]]:
    """What the search has chosen."""
    path = results / "peers-search.json"
    if not path.exists():
        raise SystemExit("No settings yet: type `python benchmarks/peers.py search` first.")
    return {name: row["best"] for name, row in json.loads(path.read_text())["solvers"].items()}


def run(families: list[str], solvers: list[str], results: Path, pairs: int) -> None:
    """Every solver at its setting on people whom the search did not see; those solved before are read."""
    best, path = settings(results), results / "peers.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for family in families:
        if report.setdefault("pairs", {}).get(family) != pairs:  # rows of other pairs cannot be compared
            report.setdefault("families", {})[family] = {}
        report["pairs"][family] = pairs
        auto = measured("peers-run", family, "auto", best["auto"], pairs)[str(METHODS["auto"].at[-1])]
        rows = report["families"][family]
        for name in (name for name in solvers if name in best):
            found = measured("peers-run", family, name, best[name], pairs)
            rows[name] = {
                at: means(values) | {"less auto": interval(values["judge"] - auto["judge"])}
                for at, values in found.items()
            }
            report["families"][family] = {one: rows[one] for one in METHODS if one in rows}
            report |= {"date": str(datetime.date.today()), "machine": machine()}
            path.write_text(json.dumps(report, indent=1) + "\n")


def interval(differences: Tensor) -> list[float]:
    """The 95 % interval of a mean over pairs, by a bootstrap."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(len(differences), (2000, len(differences)), generator=generator)
    bounds = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return differences[draws].mean(1).double().quantile(bounds).tolist()


def time(families: list[str], solvers: list[str], results: Path, pairs: int) -> None:
    """Processor and wall-clock seconds a picture from the start to each look, candidates included."""
    best, path = settings(results), results / "peers-time.json"
    references, prompts, seeds = (one[:pairs] for one in pairs_of("peers-search"))
    loss = PairedIdentity(references)
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for family in families:
        options = {"prompt": prompts, "seed": seeds, "candidates": 1}
        gf.solve(sampler(family), loss, solver="anchored", max_iterations=1, **options)  # warms up
        for name in (name for name in solvers if name in best):
            method, clocks = METHODS[name], list[tuple[float, float]]()
            all_alike = name != "sweep"
            options |= {"candidates": method.candidates, "solver": method.solver(family, best[name])}

            def note(progress: gf.callbacks.Progress, clocks: Any = clocks) -> None:
                clocks.append((process_time(), perf_counter()))

            began = process_time(), perf_counter()
            last = min(PASSES, method.at[-1]) if all_alike else method.at[-1]
            gf.solve(sampler(family), loss, max_iterations=last, callback=note, **options)
            for which, column in enumerate(("seconds", "wall")):
                at = [(clock[which] - began[which]) / len(prompts) for clock in clocks]
                each = (at[-1] - at[0]) / last
                found = {str(look): at[0] + look * each if all_alike else at[look] for look in (0, *method.at)}
                report.setdefault(column, {}).setdefault(family, {})[name] = found
            print(family, name, json.dumps(report["seconds"][family][name]), flush=True)
            report["timed on"] = (
                f"{torch.get_num_threads()} thread(s) of {machine()}, {len(prompts)} pictures at a time"
            )
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


def in_time(family: str, report: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """The last look at each solver within the time of `auto` and a tenth, with what it found; the most alike first."""
    clock, rows = report["seconds"][family], report["families"][family]
    limit = 1.1 * max(clock["auto"].values())
    last = {name: max((at for at in looks if clock[name][at] <= limit), key=int) for name, looks in rows.items()}
    found = {name: (at, rows[name][at]) for name, at in last.items() if at != "0"}
    return dict(sorted(found.items(), key=lambda item: -item[1][1]["judge"]))


def short(family: str, report: dict[str, Any]) -> str:
    """A family's solvers in the time of `auto`, as a table and a sentence."""
    clock, rows = report["seconds"][family], report["families"][family]
    unit, plain = clock["best-of"]["0"], rows["best-of"]["0"]
    head = ("solver", "iterations", "time", "likeness, held-out judge", "less `auto`", "denoise error", "prompt")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    within = in_time(family, report)
    for name, (at, row) in within.items():
        low, high = row["less auto"]
        apart = "" if name == "auto" else f"{low:+.2f} to {high:+.2f}"
        cells = [f"`{name}`", at, f"{clock[name][at] / unit:.0f}", f"{row['judge']:.3f}", apart]
        cells += [f"{row['denoise'] / plain['denoise']:.2f}x", f"{row['prompt']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(f"| unguided | 0 | 1 | {plain['judge']:.3f} | | 1.00x | {plain['prompt']:.3f} |")
    ahead = [name for name, (_, row) in within.items() if name != "auto" and row["less auto"][0] > 0]
    clean = [name for name in ahead if within[name][1]["denoise"] <= within["auto"][1]["denoise"]]
    names = ", ".join(f"`{name}`" for name in ahead)
    verdict = (
        f"More alike than `auto` in its time, beyond chance: {names}."
        if ahead
        else ("None is more alike than `auto` in its time beyond chance.")
    )
    if ahead:
        verdict += f" As natural as its pictures: {', '.join(f'`{name}`' for name in clean) or 'none of them'}."
    return "\n".join(lines) + f"\n\n{verdict}"


def caption(report: dict[str, Any], families: Iterable[str] = FAMILIES) -> str:
    """What the tables and the plot show of some families."""
    counts = {family: report["pairs"][family] for family in families if family in report["pairs"]}
    pairs = ", ".join(f"{count} pairs on `avatars-{family}`" for family, count in counts.items())
    few = "**A quick look: so few pairs settle nothing.** " if min(counts.values()) < FEW else ""
    return (
        f"{few}{pairs} of a held-out person and prompt, none of them seen in the search; `auto`, `sweep` and "
        "`universal of 16` start from the best of 16 noises, `auto with its preset`, which is what `solve` does where "
        "no solver is named, from the best of as many as the preset says. Time is processor time, in that of an "
        "unguided picture, candidates included; differences in likeness have 95 % intervals of a paired bootstrap. "
        f"Timed on {report['timed on']}; {report['date']}, by `python benchmarks/peers.py search`, `run`, `time` and "
        "`table`."
    )


def table(results: Path, pages: bool = True) -> None:
    """Write the table, a line for each look at each solver, and draw likeness and naturalness against time."""
    report, best, clocks = (
        json.loads((results / "peers.json").read_text()),
        settings(results),
        results / "peers-time.json",
    )
    if not clocks.exists():
        raise SystemExit("No times yet: type `python benchmarks/peers.py time` first.")
    report |= json.loads(clocks.read_text())
    timed = {
        family: rows
        for family, rows in report["families"].items()
        if rows.keys() <= report["seconds"].get(family, {}).keys()
    }
    report |= {"families": timed, "pairs": {family: report["pairs"][family] for family in timed}}
    head = ("family", "solver", "setting", "iterations", "time", "judge", "less `auto`", "best-of in that time")
    lines = [f"| {' | '.join([*head, 'denoise error', 'prompt'])} |", "|" + "---|" * (len(head) + 2)]
    for family, rows in report["families"].items():
        clock = report["seconds"][family]
        unit, plain = clock["best-of"]["0"], rows["best-of"]["0"]
        start = f"{plain['judge']:.3f} | | | {plain['denoise']:.4f} (1.00x) | {plain['prompt']:.3f}"
        lines.append(f"| `avatars-{family}` | unguided | | 0 | 1 | {start} |")
        for name, looks in rows.items():
            for at, row in looks.items():
                if at == "0":
                    continue
                seconds, text = clock[name][at], ", ".join(f"{key}={value}" for key, value in best[name].items())
                rival = f"{best_of_in(seconds, rows, clock):.3f}" if name != "best-of" else ""
                apart = "{:+.2f} to {:+.2f}".format(*row["less auto"])
                cells = [f"{seconds / unit:.0f}", f"{row['judge']:.3f}", apart, rival]
                cells += [f"{row['denoise']:.4f} ({row['denoise'] / plain['denoise']:.2f}x)", f"{row['prompt']:.3f}"]
                lines.append(f"| | {name} | {text} | {at} | {' | '.join(cells)} |")
    text = "\n".join(lines)
    (results / "peers.md").write_text(f"{caption(report)}\n\n{text}\n")
    print(text)
    draw(report, (IMAGES if pages else results) / "peers.png")
    if pages:
        write_between(PAGE, "peers", f"{caption(report)}\n\n{text}\n")
    if pages and report["pairs"][SEARCHED] >= FEW:
        write_between(README, "peers", f"{caption(report, [SEARCHED])}\n\n{short(SEARCHED, report)}\n")


LOOKS = {  # colour and marker: what moves controls blue, what moves the noise orange, what looks ahead green
    "best-of": ("black", "o"),
    "auto": ("tab:red", "o"),
    "auto with its preset": ("tab:pink", "*"),
    "sweep": ("tab:purple", "s"),
    "anchored": ("#08519c", "o"),
    "rectifid": ("#3182bd", "s"),
    "flowgrad": ("#6baed6", "^"),
    "noise-descent": ("#a63603", "o"),
    "reno": ("#e6550d", "s"),
    "dno": ("#fd8d3c", "^"),
    "flowchef": ("#00441b", "o"),
    "mpgd": ("#238b45", "s"),
    "universal": ("#41ab5d", "^"),
    "universal of 16": ("tab:olive", "D"),
    "tfg": ("#a1d99b", "D"),
}


BOLD = ("best-of", "auto", "auto with its preset")


def draw(report: dict[str, Any], path: Path) -> None:
    """For each family likeness against time, and against the denoising error; best-of-N in black, `auto` in red."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    families = list(report["families"])
    size = (8.4, 3.6 * len(families))
    figure, axes = plt.subplots(len(families), 2, figsize=size, layout="constrained", squeeze=False, sharey=True)
    for row, family in zip(axes, families, strict=True):
        rows, clock = report["families"][family], report["seconds"][family]
        unit, plain = clock["best-of"]["0"], rows["best-of"]["0"]["denoise"]
        for name in sorted(rows, key=lambda name: -max(look["judge"] for look in rows[name].values())):
            looks, (colour, marker) = rows[name], LOOKS[name]
            style: dict[str, Any] = {"color": colour, "marker": marker, "ms": 4, "label": name}
            style |= {"lw": 2.4, "zorder": 3} if name in BOLD else {"lw": 1.2}
            judge = [look["judge"] for look in looks.values()]
            row[0].plot([clock[name][at] / unit for at in looks], judge, **style)
            row[1].plot([look["denoise"] / plain for look in looks.values()], judge, **style)
        row[0].set(title=f"avatars-{family}", xscale="log", ylabel="likeness, held-out judge")
        row[0].set_xlabel("processor time, in unguided pictures")
        row[1].set_xlabel("denoise error, in that of unguided pictures")
        row[1].legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=8)
        for axis in row:
            axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


def check(solvers: list[str]) -> None:
    """Everything once at the smallest size: one person and prompt, one family, two iterations of one setting."""
    folder = CACHE / "peers-check"
    folder.mkdir(parents=True, exist_ok=True)
    PEOPLE.update({"peers-search": 1, "peers-run": 1})
    PROMPTS.update({"peers-search": 1, "peers-run": 1})
    for name, method in METHODS.items():
        METHODS[name] = method._replace(
            settings=method.settings[-1:], at=(1, 2), candidates=min(method.candidates or 2, 2)
        )
    search(solvers, folder, 1)
    run([SEARCHED], solvers, folder, 1)
    time([SEARCHED], solvers, folder, 1)
    table(folder, pages=False)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("search", "run", "time", "table", "check"))
    parser.add_argument("--families", default=",".join(FAMILIES))
    sizes = ", ".join(f"{PEOPLE[part] * PROMPTS[part]} in {part[6:]}" for part in ("peers-search", "peers-run"))
    parser.add_argument("--pairs", type=int, help=f"the first so many, of {sizes}")
    parser.add_argument("--iterations", type=int, help="leave out looks beyond so many iterations")
    parser.add_argument("--solvers", default=",".join(METHODS))
    options = parser.parse_args()
    families, solvers = options.families.split(","), options.solvers.split(",")
    if unknown := (set(families) - set(FAMILIES)) | (set(solvers) - set(METHODS)):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. Known: {', '.join((*FAMILIES, *METHODS))}.")
    for name, method in METHODS.items() if options.iterations else ():
        METHODS[name] = method._replace(at=tuple(at for at in method.at if at <= options.iterations))
    part = "peers-run" if options.what == "run" else "peers-search"
    pairs = min(options.pairs or (TIMED if options.what == "time" else 64), PEOPLE[part] * PROMPTS[part])
    if options.what == "check":
        check(solvers)
    elif options.what == "search":
        search(solvers, RESULTS, pairs)
    elif options.what == "table":
        table(RESULTS)
    elif options.what == "run":
        run(families, solvers, RESULTS, pairs)
    else:
        time(families, solvers, RESULTS, pairs)


if __name__ == "__main__":
    main()
