"""Compares the few-step families at the main job: 6 held-out people x 4 held-out prompts, each family with each solver.

    python benchmarks/families.py run        # goes on where it was interrupted
    python benchmarks/families.py time       # what an iteration costs, with nothing else running
    python benchmarks/families.py table      # benchmarks/results/families.md, and the pictures of the docs

Solvers keep the settings that `identity.py search` found on `avatars-perflow`, so that families meet on equal terms.
"""

from __future__ import annotations

import argparse
import datetime
import json

from avatars import (
    FAMILIES,
    HERE,
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
    write_between,
)

SOLVERS = ("anchored", "noise-descent", "unanchored", "flowgrad")
PAGE = HERE.parent / "docs" / "tutorials" / "choose-a-sampler.md"
PICTURE = RESULTS / "families.png"
COLUMNS = ("judge", "guidance", "prompt", "kid", "distance")


def settings() -> dict[str, dict]:
    """Best setting of each solver on `avatars-perflow`."""
    path = RESULTS / "search.json"
    if not path.exists():
        raise SystemExit("No settings yet: type `python benchmarks/identity.py search` first.")
    return {name: entry["best"] for name, entry in json.loads(path.read_text()).items()}


def run() -> None:
    """Solve every case with every family and solver, and judge the pictures."""
    best = settings()
    renders, _ = real_pictures()
    real = features(renders)
    rows = []
    for family in FAMILIES:
        for solver in SOLVERS:
            result = cached(f"avatars-{family}", solver, best[solver], "families")
            found = {solver: result["images"]}
            if solver == SOLVERS[0]:
                found = {"unguided": result["unguided"], **found}
            for name, images in found.items():
                scores = judge(images, result["unguided"], "families")
                scores["kid"] = kernel_distance(features(images), real)
                rows.append({"family": family, "solver": name, **scores})
                print(json.dumps(rows[-1]), flush=True)
    _, prompts, _, identity = cases("families")
    path = RESULTS / "families.json"
    old = json.loads(path.read_text()) if path.exists() else {"rows": []}
    costs = {(row["family"], row["solver"]): row["cost"] for row in old["rows"] if "cost" in row}
    for row in rows:
        if (cost := costs.get((row["family"], row["solver"]))) is not None:
            row["cost"] = cost
    report = {
        "date": str(datetime.date.today()),
        "machine": machine(),
        "timed on": old.get("timed on"),
        "cases": len(prompts),
        "real": real_pairs(identity),
        "rows": rows,
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def time() -> None:
    """Measure what an iteration costs; nothing else should run meanwhile."""
    path = RESULTS / "families.json"
    report = json.loads(path.read_text())
    rows = [row for row in report["rows"] if row["solver"] != "unguided"]
    best = settings()
    costs = relative_costs(
        [(f"avatars-{row['family']}", row["solver"], best[row["solver"]]) for row in rows], repeats=1
    )
    report = json.loads(path.read_text())  # `run` may have ended meanwhile
    for row, cost in zip((row for row in report["rows"] if row["solver"] != "unguided"), costs, strict=True):
        row["cost"] = cost
    report["timed on"] = machine()
    path.write_text(json.dumps(report, indent=1) + "\n")


def table() -> None:
    """Write the table into the page of the docs, and draw the families."""
    report = json.loads((RESULTS / "families.json").read_text())
    lines = [
        "| family | solver | held-out judge | guidance network | prompt | KID | distance | cost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        numbers = " | ".join(f"{row[key]:.2f}" if key == "kid" else f"{row[key]:.3f}" for key in COLUMNS)
        family = f"`avatars-{row['family']}`" if row["solver"] == "unguided" else ""
        cost = f"{row['cost']:.2f}" if "cost" in row else ""
        lines.append(f"| {family} | {row['solver']} | {numbers} | {cost} |")
    real = report["real"]
    lines.append(f"| two real pictures | | {real['judge']:.3f} | {real['guidance']:.3f} | | | | |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "families.md").write_text(text)
    print(text)
    people = report["cases"] // 4
    caption = (
        f"{people} held-out people times 4 held-out prompts, 50 iterations, drawn on {report['machine']}, timed on "
        f"{report.get('timed on')}, {report['date']}, by `python benchmarks/families.py run`, `time` and `table`. Cost "
        "is the time of an iteration relative to that of anchored guidance on `avatars-perflow`."
    )
    write_between(PAGE, "families", f"{caption}\n\n{text}")
    draw(people)


def draw(people: int) -> None:
    """One row for each person: the reference, then each family unguided and guided."""
    references, *_ = cases("families")
    best = settings()["anchored"]
    found = {family: cached(f"avatars-{family}", "anchored", best, "families") for family in FAMILIES}
    columns, rows = ["reference"], [[references[4 * i]] for i in range(people)]
    for family, result in found.items():
        columns += [f"{family}\nunguided", "\nanchored"]
        for i, row in enumerate(rows):
            row += [result["unguided"][4 * i], result["images"][4 * i]]
    draw_labelled(PICTURE, rows, columns)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "time", "table"))
    {"run": run, "time": time, "table": table}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
