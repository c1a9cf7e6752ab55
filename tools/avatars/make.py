"""Makes everything that `guideflow_avatars` ships: every part in order, interrupted and taken up again at any moment.

    python tools/avatars/make.py                         # everything, for the steps each part takes by default
    python tools/avatars/make.py teacher perflow         # some parts, in this order
    python tools/avatars/make.py --minutes 9             # everything within a time, shared out by the weights below
    python tools/avatars/make.py --together 4            # parts that do not need each other side by side: on a GPU

A part is a script of this folder, which may as well be run by itself. It goes on from its last checkpoint; one that is
done is passed over. What parts print goes to `data/logs/`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
DATA = Path(os.environ.get("AVATARS_DATA", HERE / "data"))


@dataclasses.dataclass(frozen=True)
class Part:
    """A script with its arguments, what must be done before it, and its share of the time."""

    command: str
    needs: tuple[str, ...] = ()
    weight: float = 0.0  # of the time of a run with --minutes; 0: it takes what it takes


PARTS = {
    "render": Part("render.py"),
    "text": Part("text.py", ("render",), 3),
    "autoencoder": Part("autoencoder.py", ("render",), 30),
    "attributes": Part("recognisers.py attributes", ("render",), 12),
    "identity": Part("recognisers.py guidance", ("render",), 24),
    "upright": Part("upright.py", ("identity",)),
    "identity-judge": Part("recognisers.py evaluation", ("render",), 16),
    "labels": Part("labels.py", ("render",)),
    "teacher": Part("teacher.py", ("autoencoder", "text"), 40),
    "segmenter": Part("segmenter.py guidance", ("labels", "autoencoder"), 12),
    "segmenter-judge": Part("segmenter.py evaluation", ("labels", "autoencoder"), 10),
    "subject": Part("self_supervised.py", ("render",), 14),
    "style": Part("style.py guidance", ("render",), 6),
    "style-judge": Part("style.py evaluation", ("render",), 6),
    "decoder": Part("decoder.py", ("autoencoder",), 12),
    "paths": Part("students.py", ("teacher",)),
    "perflow": Part("perflow.py", ("paths",), 15),
    "pcm": Part("pcm.py", ("paths",), 15),
    "turbo": Part("turbo.py", ("paths",), 18),
    "rectified-flow": Part("rectified_flow.py", ("paths",), 18),
    "instaflow": Part("instaflow.py", ("rectified-flow",), 15),
    "preview": Part("preview.py", ("perflow", "rectified-flow", "turbo", "pcm"), 4),
    "flux": Part("flux.py", ("paths",), 20),
}


def run(names: list[str], minutes: float | None, together: int, seconds_of: dict[str, float]) -> int:
    """Start each part when what it needs is done; return the number of those that failed."""
    logs, marks = DATA / "logs", DATA / "done"
    logs.mkdir(parents=True, exist_ok=True)
    marks.mkdir(exist_ok=True)
    waiting = [name for name in names if not (marks / name).exists()]
    total = sum(PARTS[name].weight for name in waiting) or 1.0
    running: dict[str, tuple[subprocess.Popen, float]] = {}
    failed: set[str] = set()
    while waiting or running:
        for name in list(waiting):
            needs = [need for need in PARTS[name].needs if need in names and not (marks / need).exists()]
            if failed & set(needs):
                failed.add(name)
                waiting.remove(name)
                print(f"{name}: left out, it needs {', '.join(failed & set(needs))}", flush=True)
            elif not needs and len(running) < together:
                waiting.remove(name)
                environment = dict(os.environ)
                share = seconds_of.get(name) or (60 * minutes * PARTS[name].weight / total if minutes else 0)
                if share:
                    environment["AVATARS_MINUTES"] = str(share / 60)
                command = [sys.executable, *PARTS[name].command.split()]
                with open(logs / f"{name}.log", "a") as log:
                    process = subprocess.Popen(command, cwd=HERE, env=environment, stdout=log, stderr=subprocess.STDOUT)
                running[name] = process, time.perf_counter()
                print(f"{name}: started{f', {share:.0f} s' if share else ''}", flush=True)
        time.sleep(0.2)
        for name, (process, started) in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            last = (logs / f"{name}.log").read_text().strip().splitlines()
            state = "done" if process.returncode == 0 else f"FAILED ({process.returncode})"
            seconds = time.perf_counter() - started
            print(f"{name}: {state} after {seconds:.0f} s; {last[-1] if last else ''}", flush=True)
            if process.returncode == 0:
                (marks / name).touch()
            else:
                failed.add(name)
                print("\n".join(last[-12:]), flush=True)
    return len(failed)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"NAME or NAME=SECONDS, of {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=float, help="for all parts together, when they run one after another")
    parser.add_argument("--together", type=int, default=1, help="parts that may run side by side")
    parser.add_argument("--device", help="cuda or cpu; by default what there is")
    options = parser.parse_args()
    if options.device:
        os.environ["AVATARS_DEVICE"] = options.device
    times = {name: float(value) for name, _, value in (part.partition("=") for part in options.parts) if value}
    names = [part.partition("=")[0] for part in options.parts] or list(PARTS)
    if unknown := set(names) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    sys.exit(1 if run(names, options.minutes, options.together, times) else 0)


if __name__ == "__main__":
    main()
