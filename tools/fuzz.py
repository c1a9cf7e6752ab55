"""Try readers of pictures, manifests, saved runs and ONNX files on damaged ones, for as long as there is time.

    python tools/fuzz.py --minutes 10

The same attempts as the tests make, at random: each may take two seconds and so much memory, may write nothing beside
its folder, and ends in a reading or in a message of guideflow's own. What does not is printed, made as small as can be.
"""

import argparse
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import torch
from hypothesis import HealthCheck, settings

import hostile
from untyped_hostile import Watch, folders, graphs, manifests, pictures


def main() -> int:
    """Try, and print what was tried; 1 if something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--examples", type=int, default=100, help="attempts of each kind at a time")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    limits = settings(max_examples=given.examples, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    end, tried, longest, grown, failed = time.monotonic() + 60 * given.minutes, Counter(), Counter(), Counter(), 0
    with tempfile.TemporaryDirectory() as place:
        saved = Path(place) / "saved"
        saved.mkdir()
        saved = hostile.saved_run(saved)
        kinds = {"pictures": pictures, "manifests": manifests, "saved runs": folders, "ONNX graphs": graphs}
        number = 0
        while time.monotonic() < end:
            for kind, attempt in kinds.items():
                folder = Path(place) / f"{number}"
                folder.mkdir()
                os.chdir(folder)
                number, watch = number + 1, Watch(folder)
                try:
                    attempt(
                        watch, limits, *([hostile.Runs(saved, watch.inside)] if attempt in (manifests, folders) else [])
                    )
                except Exception:
                    failed += 1
                    print(f"{kind}:\n{traceback.format_exc()[-3000:]}", flush=True)
                tried[kind] += watch.tried
                longest[kind] = max(longest[kind], watch.longest)
                grown[kind] = max(grown[kind], watch.grown)
    for kind, count in tried.items():
        print(f"{kind}: {count} tried, the longest {longest[kind]:.2f} s, memory grew by {grown[kind] / 1e6:.0f} MB")
    print(f"{sum(tried.values())} files tried, {failed} failures")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
