"""Makes the paper's tables and figures again in the avatars world: sweeps, their evaluation, and what is written of it.

    python benchmarks/paper/make.py search       # settings for Table 2, on four other people, on avatars-perflow
    python benchmarks/paper/make.py table1       # likeness, prompt and time
    python benchmarks/paper/make.py table2       # with and without the anchor, and descent on the noise
    python benchmarks/paper/make.py fig6         # both at half and twice the setting, on the way to 100 iterations
    python benchmarks/paper/make.py fig15        # how much hangs on the scale, and on the iterations
    python benchmarks/paper/make.py all          # all of it
    python benchmarks/paper/make.py write        # what is solved is measured and written, and nothing is solved
    python benchmarks/paper/make.py draw --results FOLDER   # the plots alone, into a folder of their own

Nothing here solves: `guideflow sweep` runs the specs beside this file, in a copy for each family, and `guideflow
evaluate` measures. So every command goes on where it was interrupted and adds pairs and settings to what is there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import measured
import pairs
import tables
from solving import NEEDED, SEARCHED, Options, measure, record, solve

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "paper"
PAGES = {
    ROOT / "docs" / "tutorials" / "reproduce-the-paper.md": ("claims", "table1", "table2", "search"),
    ROOT / "docs" / "tutorials" / "choose-a-sampler.md": ("table2",),
}
DRAWN = "reproduce-the-paper-"


def search(options: Options) -> None:
    """Choose a setting of each rule: most likeness, less what the prompt lost below 0.9."""
    solve(SEARCHED, "search", options)
    about, rows = record(options), []
    for line in measured.read(options.work / SEARCHED):
        if line.sweep == "search":
            value = line.number("likeness")[0] + min(0.0, line.number("prompt")[0] - 0.9)
            rows.append(measured.row_of(SEARCHED, line, {"value": f"{value:.4f}", "best": "", **about}))
    for solver in dict.fromkeys(row["solver"] for row in rows):
        best = max((row for row in rows if row["solver"] == solver), key=lambda row: float(row["value"]))
        best["best"] = "yes"
    measured.write_rows(options.results / "search.csv", rows)


def collect(options: Options) -> None:
    """Put what the sweeps have come to into the CSV files, beside families that were solved elsewhere."""
    import claims
    import plots

    rows, asked = (measured.read_rows(options.results / f"{name}.csv") for name in ("paper", "claims"))
    for family in options.families:
        lines = [line for line in measured.read(options.work / family) if line.sweep != "search"]
        fresh = [measured.row_of(family, line, record(options, family)) for line in lines]
        old = [row for row in rows if row["family"] == family]
        if not fresh:
            continue
        if old and worth(fresh) < worth(old):
            print(f"The rows of {family} that are there stand for more, and stay.")
            continue
        rows = [row for row in rows if row["family"] != family] + fresh
        asked = [row for row in asked if row["family"] != family] + claims.judge(family, lines)
        if family == tables.FAMILIES[0]:
            plots.pictures(lines, options.results / f"{DRAWN}pictures.png")
    order = tables.families(rows)
    for name, found in (("paper", rows), ("claims", asked)):
        if found:
            measured.write_rows(
                options.results / f"{name}.csv", sorted(found, key=lambda row: order.index(row["family"]))
            )


def worth(rows: list[measured.Row]) -> tuple[bool, int]:
    """Rank the rows of a family: a quick look below whole solves, then by pairs."""
    return not tables.quick(rows), max((int(row["pairs"]) for row in rows), default=0)


def searched(options: Options) -> bool:
    """Whether there are settings already; those of a quick look serve another one."""
    rows = measured.read_rows(options.results / "search.csv")
    return bool(rows) and (options.iterations != 100 or not tables.quick(rows))


def write(results: Path) -> None:
    """Write Markdown and plots from the CSV files; of the repository's own results the pages too."""
    from avatars import write_between

    rows, asked, best = (measured.read_rows(results / f"{name}.csv") for name in ("paper", "claims", "search"))
    texts = {"search": f"{tables.caption(best)}\n\n{tables.search(best)}"} if best else {}
    if rows:
        told = f"{tables.caption(rows)} {tables.EXPLAINED}"
        texts["claims"] = tables.claims(asked, rows)
        texts["table1"] = f"{told} {tables.SECONDS}\n\n{tables.table1(rows)}"
        texts["table2"] = f"{told} {tables.DISTANCE}\n\n{tables.table2(rows, [row for row in best if row['best']])}"
        draw(results, results)
    for name, text in texts.items():
        (results / f"{name}.md").write_text(text + "\n")
    print(f"Wrote {results}.")
    if results == RESULTS:
        for picture in results.glob(f"{DRAWN}*.png"):
            shutil.copy(picture, ROOT / "docs" / "images" / picture.name)
        for page, names in PAGES.items():
            for name in names:
                if name in texts:
                    write_between(page, name, texts[name])


def draw(results: Path, folder: Path) -> None:
    """Draw the plots of some results into a folder, and bring the pictures along."""
    import plots

    rows = measured.read_rows(results / "paper.csv")
    plots.fig6(rows, folder / f"{DRAWN}fig6.png")
    plots.fig15(rows, folder / f"{DRAWN}fig15.png")
    there = results / f"{DRAWN}pictures.png"
    if there.exists() and results != folder:
        shutil.copy(there, folder / there.name)


def run(what: str, options: Options) -> int:
    """Do it, and say what went wrong in one line."""
    sys.path.insert(0, str(HERE.parent))
    from guideflow.cli.codes import Failed
    from guideflow.errors import FolderInUse, GuideflowError

    try:
        if what == "draw":
            draw(RESULTS, options.results)
            return 0
        if what == "search" or (what in ("all", "table2") and not searched(options)):
            search(options)
        for family in options.families if what in NEEDED else ():
            solve(family, what, options)
            collect(options)
            write(options.results)
        if what == "write":
            for family in options.families:
                measure(options.work / family, options.device)
            collect(options)
        if what in ("search", "write"):
            write(options.results)
    except (GuideflowError, Failed) as error:
        cure = " Here: --work another folder." if isinstance(error, FolderInUse) else ""
        print(f"make.py: {error}{cure}", file=sys.stderr)
        return getattr(error, "code", 2)
    except KeyboardInterrupt:
        print("make.py: interrupted; the same command goes on.", file=sys.stderr)
        return 130
    return 0


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("search", *NEEDED, "write", "draw"))
    parser.add_argument("--families", default=",".join(tables.FAMILIES), help="names with commas between them")
    parser.add_argument("--pairs", type=int, default=64, help="of a person and a prompt, 2 to 64; more than are there")
    parser.add_argument("--iterations", type=int, default=100, help="fewer for a quick look; all others shrink alike")
    parser.add_argument("--batch", type=int, default=8, help="pictures that are solved together")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / "cache" / "paper", help="for the sweeps")
    parser.add_argument("--results", type=Path, default=RESULTS, help="for CSV, Markdown and plots")
    typed = vars(parser.parse_args())
    what, names = typed.pop("what"), typed.pop("families").split(",")
    if unknown := {*names} - {*tables.FAMILIES}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}. Known: {', '.join(tables.FAMILIES)}.")
    if not 2 <= typed["pairs"] <= pairs.PEOPLE * pairs.PROMPTS:
        parser.error(f"--pairs {typed['pairs']}: expected 2 to {pairs.PEOPLE * pairs.PROMPTS}.")
    if typed["iterations"] < 1 or typed["batch"] < 1:
        parser.error("--iterations and --batch: expected 1 or more.")
    quick = {name: typed[name] for name in ("pairs", "iterations", "batch", "device")}
    words = [f"--{name} {value}" for name, value in quick.items() if value != parser.get_default(name)]
    work, results = typed.pop("work").resolve(), typed.pop("results").resolve()
    results.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)  # references are named by their path from here, on whatever machine
    work = work.relative_to(ROOT) if work.is_relative_to(ROOT) else work
    command = " ".join(["python benchmarks/paper/make.py", what, *words])
    return run(what, Options(families=names, work=work, results=results, command=command, **typed))


if __name__ == "__main__":
    sys.exit(main())
