"""Try readers of pictures, specs, manifests, saved runs, ONNX files and LoRAs on damaged ones, while there is time.

    python tools/fuzz.py --minutes 10
    python tools/fuzz.py --minutes 10 --seed 3 --to found.json   # other attempts; adds what was tried to a file

The same attempts as the tests make, at random: each may take two seconds and so much memory, may write nothing beside
its folder, and ends in a reading or in a message of guideflow's own. What does not is printed, made as small as can be.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import torch
from hypothesis import HealthCheck, seed, settings

import hostile
from untyped_hostile import Watch, adapters, folders, graphs, manifests, pictures, specs, tables

KINDS = {
    "pictures": pictures,
    "specs": specs,
    "tables of references": tables,
    "manifests": manifests,
    "saved runs": folders,
    "ONNX graphs": graphs,
    "LoRAs": adapters,
}


def main() -> int:
    """Try, and print what was tried; 1 if something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--examples", type=int, default=100, help="attempts of each kind at a time")
    parser.add_argument("--seed", type=int, default=0, help="another one makes other attempts")
    parser.add_argument("--to", type=Path, help="a file of totals that this run is added to")
    given = parser.parse_args()
    given.to = given.to and given.to.resolve()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    limits = settings(max_examples=given.examples, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    tried, longest, grown, failed = Counter(), Counter(), Counter(), 0
    with tempfile.TemporaryDirectory() as place:
        saved = Path(place) / "saved"
        saved.mkdir()
        saved = hostile.saved_run(saved)
        number, began, spent = 0, time.monotonic(), time.process_time()
        while time.monotonic() < began + 60 * given.minutes:
            for kind, attempt in KINDS.items():
                folder = Path(place) / f"{number}"
                folder.mkdir()
                os.chdir(folder)
                number, watch = number + 1, Watch(folder)

                def drawn(wrapped: Any, own: int = 10**6 * given.seed + number) -> Any:
                    return limits(seed(own)(wrapped))

                try:
                    attempt(
                        watch, drawn, *([hostile.Runs(saved, watch.inside)] if attempt in (manifests, folders) else [])
                    )
                except Exception:
                    failed += 1
                    print(f"{kind}:\n{traceback.format_exc()[-9000:]}", flush=True)
                tried[kind] += watch.tried
                longest[kind] = max(longest[kind], watch.longest)
                grown[kind] = max(grown[kind], watch.grown)
    for kind, count in tried.items():
        print(f"{kind}: {count} tried, the longest {longest[kind]:.2f} s, memory grew by {grown[kind] / 1e6:.0f} MB")
    minutes, busy = (time.monotonic() - began) / 60, (time.process_time() - spent) / 60
    print(f"{sum(tried.values())} files tried in {minutes:.1f} minutes ({busy:.1f} of a core), {failed} failures")
    if given.to:
        add(given.to, {"minutes": minutes, "minutes of a core": busy}, tried, failed)
    return int(failed > 0)


def add(path: Path, took: dict[str, float], tried: Counter[str], failed: int) -> None:
    """Add a run to the totals in a file."""
    found = json.loads(path.read_text()) if path.exists() else {"failures": 0, "tried": {}}
    found |= {name: round(found.get(name, 0.0) + minutes, 1) for name, minutes in took.items()}
    found["failures"] += failed
    for kind, count in tried.items():
        found["tried"][kind] = found["tried"].get(kind, 0) + count
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
