"""How long guideflow takes to import, to answer on the command line, and to begin the demo.

    python benchmarks/startup.py                  # 7 repeats; nothing else should run meanwhile
    python benchmarks/startup.py --repeats 1      # the same in a minute

Every measurement is a fresh process, seen from outside. The cases take turns, so that a change of the machine's load
meets all alike; a first round, which fills the disk cache, does not count. Processor time of the process, which other
work on the machine hardly changes, stands beside the seconds on the clock. What an import adds to `import torch` is
taken within each round. Results go to benchmarks/results/startup.json and startup.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PAGE = RESULTS.parent.parent / "docs" / "design" / "speed.md"
EXPORTS = "import torch, guideflow\nfor name in dir(guideflow): getattr(guideflow, name)"
# The first rollout of the demo stops it, and tells when it was reached.
DEMO = """
import sys, time
from guideflow import problem
from guideflow.__main__ import main

def stop(*arguments, **options):
    print(time.monotonic(), flush=True)
    sys.exit(7)

problem.Problem.rollout = stop
main(["demo", "--out", sys.argv[1]])
"""


def command(*arguments: str) -> list[str]:
    """What runs when a user types `guideflow ...` in the environment of this interpreter."""
    script = Path(sys.executable).with_name("guideflow")
    return [*([str(script)] if script.exists() else [sys.executable, "-m", "guideflow"]), *arguments]


def python(code: str, *arguments: str) -> list[str]:
    """A fresh interpreter with a program."""
    return [sys.executable, "-c", code, *arguments]


CASES: dict[str, tuple[list[str], float | None]] = {
    "import torch": (python("import torch"), None),
    "import torch, guideflow": (python("import torch, guideflow"), None),
    "import torch and all that guideflow exports": (python(EXPORTS), None),
    "import guideflow": (python("import guideflow"), None),
    "guideflow --help": (command("--help"), 1.5),
    "guideflow --version": (command("--version"), 1.5),
    "guideflow list": (command("list"), 1.5),
    "guideflow info avatars-perflow": (command("info", "avatars-perflow"), 1.5),
    "guideflow info perflow": (command("info", "perflow"), 1.5),
    "guideflow info anchored": (command("info", "anchored"), None),
    "guideflow info avatars-identity": (command("info", "avatars-identity"), None),
    "guideflow demo, to the first iteration": (python(DEMO), 8.0),
}
ADDED = {"import torch, guideflow": 0.5, "import torch and all that guideflow exports": 0.5}


def measure(name: str) -> tuple[float, float]:
    """Seconds on the clock and of processor time of one fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = CASES[name][0] + ([folder] if CASES[name][0][-1] == DEMO else [])
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
        end, after = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    demo = CASES[name][0][-1] == DEMO
    if done.returncode != (7 if demo else 0):
        raise SystemExit(f"{name} failed with {done.returncode}:\n{done.stderr}")
    if demo:  # the clock of time.monotonic is one for all processes
        end = float(done.stdout.split()[-1])
    return end - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def spread(values: list[float]) -> dict[str, float]:
    """Median with least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def report(found: dict[str, list[tuple[float, float]]]) -> dict[str, dict]:
    """Medians of every case, and of what imports add to torch's, with the goals."""
    rows = {}
    for name, pairs in found.items():
        seconds, processor = zip(*pairs, strict=True)
        rows[name] = {"seconds": spread(list(seconds)), "processor": spread(list(processor)), "goal": CASES[name][1]}
    for name, goal in ADDED.items():
        pairs = list(zip(found[name], found["import torch"], strict=True))
        rows[f"{name}, less torch"] = {
            "seconds": spread([ours[0] - theirs[0] for ours, theirs in pairs]),
            "processor": spread([ours[1] - theirs[1] for ours, theirs in pairs]),
            "goal": goal,
        }
    return rows


def table(rows: dict[str, dict], repeats: int, date: str) -> str:
    """The report as a page."""
    lines = [
        f"Medians of {repeats} (least to most), {os.cpu_count()}-core CPU, {date}, by `python benchmarks/startup.py`.",
        "",
        "| what | seconds | processor seconds | goal |",
        "|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [
            f"{row[key]['median']:.2f} ({row[key]['min']:.2f} to {row[key]['max']:.2f})" for key in row if key != "goal"
        ]
        goal = row["goal"]
        verdict = "" if goal is None else f"{goal:g}: {'met' if row['seconds']['median'] <= goal else 'NOT met'}"
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure in turns and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    for turn in range(options.repeats + 1):
        for name in CASES:
            pair = measure(name)
            if turn:
                found[name].append(pair)
    rows, date = report(found), str(datetime.date.today())
    text = table(rows, options.repeats, date)
    print(text)
    if not options.dry:
        (RESULTS / "startup.json").write_text(json.dumps({"date": date, "rows": rows}, indent=1) + "\n")
        (RESULTS / "startup.md").write_text(text)
        from avatars import write_between

        write_between(PAGE, "startup", text)


if __name__ == "__main__":
    main()
