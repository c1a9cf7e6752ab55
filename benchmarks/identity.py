"""Compares solvers at the main job: 32 held-out people x 4 held-out prompts in the avatars world.

    python tools/avatars/render.py --train 0        # held-out renders, once
    python benchmarks/realism.py solve              # what the judge of naturalness learns from, once; and then train
    python benchmarks/identity.py search            # best setting of each solver, on other people
    python benchmarks/identity.py run               # the comparison; goes on where it was interrupted
    python benchmarks/identity.py time              # what an iteration costs, with nothing else running
    python benchmarks/identity.py table             # benchmarks/results/identity.md, and a picture of samples

Everything is judged by networks that no loss uses (see `guideflow_avatars.judges`).
"""

from __future__ import annotations

import argparse
import datetime
import json

import torch
from avatars import (
    PEOPLE,
    RESULTS,
    cached,
    cases,
    draw_labelled,
    features,
    judge,
    kernel_distance,
    machine,
    real_pairs,
    real_pictures,
    relative_costs,
)
from realism import has_judge, naturalness

CAPTION = """{people} people whom no network was trained on, times 4 prompts that no generator was trained on, in the
avatars world; 50 iterations, but 12 from the best of 16 noises for `auto`; each other solver at the best setting of a
small search on four other people.
Drawn on {machine}, timed on {timed_on}, {date}, by `python benchmarks/identity.py search`,
`run --people {people}`, `time` and `table`.

*Likeness* is the cosine to the reference; the judge is a network of another architecture, trained on other people, that
no loss uses, and *of the way* says how far the solver gets from unguided to two real pictures of a person. *Prompt* is
the share of background, clothes and colour that is as asked. *KID* to real renders and *taken for real* (the share
that a judge of patches does not tell from real ones, see `benchmarks/realism.py`) say how natural the pictures are.
*Distance* is the root mean square change of the picture, *cost* the time of an iteration, that of anchored guidance
being 1."""
SAMPLER = "avatars-perflow"
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


def search() -> None:
    """Choose each solver's setting by `value`."""
    renders, _ = real_pictures()
    real = features(renders)
    found: dict[str, dict] = {}
    for name, settings in SETTINGS.items():
        rows = []
        for options in settings:
            result = cached(SAMPLER, name, options, "search")
            scores = judge(result["images"], result["unguided"], "search")
            scores["kid"] = kernel_distance(features(result["images"]), real)
            scores["value"] = value(scores)
            rows.append({"options": options, **scores})
            print(name, json.dumps(rows[-1]), flush=True)
        found[name] = {"rows": rows, "best": max(rows, key=lambda row: row["value"])["options"]}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "search.json").write_text(json.dumps(found, indent=1) + "\n")


def value(scores: dict[str, float]) -> float:
    """Held-out likeness, less what it costs in prompt and, little since so few pictures tell it badly, in KID."""
    return scores["judge"] + min(0.0, scores["prompt"] - 0.9) - 0.02 * max(0.0, scores["kid"])


def settings() -> dict[str, dict]:
    """What was found, and the default, which is not searched here."""
    found = json.loads((RESULTS / "search.json").read_text())
    return {"auto": {}, **{name: entry["best"] for name, entry in found.items()}}


def taken_for_real(images: torch.Tensor) -> float | None:
    """Share of pictures that the judge of naturalness takes for real; None while there is no such judge."""
    return (naturalness(images) > 0).float().mean().item() if has_judge() else None


def run(solvers: list[str]) -> None:
    """The comparison, at the settings found; of some solvers only, if they are named, beside the rows there are."""
    path = RESULTS / "search.json"
    if not path.exists():
        raise SystemExit("No settings yet: type `python benchmarks/identity.py search` first.")
    best = {name: options for name, options in settings().items() if not solvers or name in solvers}
    results = {name: cached(SAMPLER, name, options, "run") for name, options in best.items()}
    renders, decoded = real_pictures()
    real = features(renders)
    _, _, _, identity = cases("run")
    plain = next(iter(results.values()))["unguided"]
    pictures = {"unguided": plain, **{name: r["images"] for name, r in results.items()}}
    there = RESULTS / "identity.json"
    before = json.loads(there.read_text()) if there.exists() else {}
    old = before if solvers else {}
    rows = {name: old.get(name, {}) for name in ("unguided", *settings())}
    for name, images in pictures.items():
        rows[name] = {
            "options": best.get(name, {}),
            **judge(images, pictures["unguided"], "run"),
            "kid": kernel_distance(features(images), real),
            "taken_for_real": taken_for_real(images),
        }
        if "cost" in before.get(name, {}):
            rows[name]["cost"] = before[name]["cost"]
        print(name, json.dumps(rows[name]), flush=True)
    rows["two real pictures"] = real_pairs(identity) | {"taken_for_real": taken_for_real(decoded)}
    if old.get("cases", len(identity)) != len(identity):
        raise SystemExit(f"The rows there are stand for {old['cases']} cases, not {len(identity)}.")
    rows |= {"cases": len(identity), "date": str(datetime.date.today()), "machine": machine()}
    rows["timed on"] = before.get("timed on")
    (RESULTS / "identity.json").write_text(json.dumps(rows, indent=1) + "\n")


def time() -> None:
    """Measure what an iteration of each solver costs; nothing else should run meanwhile."""
    path = RESULTS / "identity.json"
    rows = json.loads(path.read_text())
    names = ["anchored", *(name for name in settings() if name != "anchored")]  # relative to the first
    costs = relative_costs([(SAMPLER, name, rows[name]["options"]) for name in names])
    rows = json.loads(path.read_text())  # `run` may have ended meanwhile
    for name, cost in zip(names, costs, strict=True):
        rows[name]["cost"] = cost
    rows["timed on"] = machine()
    path.write_text(json.dumps(rows, indent=1) + "\n")


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
        cells += [f"{row['prompt']:.3f}", f"{row['kid']:.2f}"] if "prompt" in row else ["", ""]
        real = row["taken_for_real"]
        cells += ["" if real is None else f"{real:.0%}"]
        if "prompt" in row:
            cells += [f"{row['distance']:.3f}", f"{row['cost']:.2f}" if "cost" in row else ""]
        lines.append("| " + " | ".join(cells + [""] * (10 - len(cells))) + " |")
    text = "\n".join(lines) + "\n"
    print(text)
    caption = CAPTION.format(
        people=rows["cases"] // 4, date=rows["date"], machine=rows["machine"], timed_on=rows.get("timed on")
    )
    (RESULTS / "identity.md").write_text(f"{caption}\n\n{text}")
    results = {name: cached(SAMPLER, name, options, "shown") for name, options in settings().items()}
    columns = {"reference": cases("shown")[0], "unguided": results["auto"]["unguided"]}
    draw(columns | {name: result["images"] for name, result in results.items()})


def draw(columns: dict[str, torch.Tensor]) -> None:
    """The first eight people of the comparison, two in a row."""
    pictures = list(columns.values())
    rows = [[one[i + j] for j in (0, 4) for one in pictures] for i in range(4)]
    draw_labelled(RESULTS / "identity.png", rows, [name.replace("-", "\n") for name in columns] * 2, side=0.84)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("search", "run", "time", "table"))
    parser.add_argument("--people", type=int, help="fewer people than 32 (run) or 4 (search), for a quick look")
    parser.add_argument("--solvers", default="", help="names with commas between them: solve these only (run)")
    options = parser.parse_args()
    if options.people:
        PEOPLE["search" if options.what == "search" else "run"] = options.people
    if options.what == "run":
        run(options.solvers.split(",") if options.solvers else [])
    else:
        {"search": search, "time": time, "table": table}[options.what]()


if __name__ == "__main__":
    main()
