"""What was tried against guideflow, and what it withstood: docs/reliability.md.

    python benchmarks/reliability.py                             # all of it
    python benchmarks/reliability.py --solves 60 --kills 5       # the same in a few minutes
    python benchmarks/reliability.py watermark                   # one part, the others as they were

Bad files are those of the tests; what tools/fuzz.py has tried is read from the totals that it keeps. Processes are
killed at random times while they solve and save, and what they left goes on; it is compared with runs that nothing
interrupted. A soak solves and saves in one process. The watermark is looked for in what was marked and in what was
not, each as it is and after it was sent around.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import io
import json
import os
import platform
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import guideflow as gf
import guideflow_avatars as avatars
import hostile
from guideflow import images
from guideflow.provenance import watermark
from guideflow.storage import flatten
from problems import Distance, mixture, target

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "reliability.json"
FUZZED = RESULTS.with_name("fuzz.json")
PAGE = ROOT / "docs" / "reliability.md"
BYTES, HANDLES = 30e6, 0
"""By how much a soak may grow, from its fiftieth solve on."""


def files(arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Read every file of the corpus."""
    bad, refused, raised, longest = hostile.corpus(), 0, [], 0.0
    for name, content in bad.items():
        path = place / name
        path.write_bytes(content)
        began = time.process_time()
        try:
            images.read_image(path)
        except gf.GuideflowError:
            refused += 1
        except Exception as error:
            raised.append(f"{name}: {error!r}")
        longest = max(longest, time.process_time() - began)
    odd = [*hostile.special(place / "special")]
    for path in odd:
        try:
            images.read_image(path)
        except gf.GuideflowError:
            refused += 1
    return {"tried": len(bad) + len(odd), "refused": refused, "raised": raised, "longest": round(longest, 2)}


def kills(arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Kill processes that solve and save."""
    draw, survived, lost, late, differing = random.Random(0), 0, 0, 0, 0
    solvers: list[Any] = ["flowgrad", "anchored", "noise-descent", gf.Auto(iterations=4), gf.Momentum(gf.FlowGrad())]
    for number in range(arguments.kills):
        folder, count, solver = place / f"kill{number}", place / f"count{number}", solvers[number % len(solvers)]

        def tell(progress: Any, count: Path = count) -> None:
            count.write_text(str(progress.iteration))
            time.sleep(0.002)

        options: dict[str, Any] = {"save_to": folder, "checkpoint_every": 2, "callback": tell}
        child = os.fork()
        if child == 0:
            try:
                _solve(10**6, solver, **options)
            finally:
                os._exit(1)
        while not (folder / "manifest.json").exists():
            time.sleep(0.01)
        time.sleep(draw.random() / 2)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        try:
            done = gf.Solution.load(folder).state.iteration
        except gf.GuideflowError:
            continue
        survived += 1
        late = max(late, int(count.read_text() or 0) - done)
        sampler = mixture()
        resumed = gf.resume(folder, max_iterations=done + 3, sampler=sampler, loss=Distance(target(sampler)))
        whole = _solve(done + 3, solver)
        lost += len(whole.history["loss"]) - len(resumed.history["loss"])
        ours, theirs = flatten(resumed.kept, "kept"), flatten(whole.kept, "kept")
        same = all(torch.equal(value, theirs[name]) for name, value in ours.items())
        differing += not (same and torch.equal(resumed.history["loss"], whole.history["loss"]))
    return {"kills": arguments.kills, "survived": survived, "behind": late, "rows lost": lost, "differing": differing}


def _solve(iterations: int, solver: Any, **options: Any) -> gf.Solution:
    sampler = mixture()
    loss = Distance(target(sampler))
    return gf.solve(sampler, loss, seed=[0, 1], candidates=1, max_iterations=iterations, solver=solver, **options)


def soak(arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Solve, save, load, resume and verify many times in a process."""
    sampler = gf.load_sampler("toy-mixture", size=128, num_steps=2)
    samples, first, loss = [], None, None
    for number in range(arguments.solves):
        if number % 10 == 0:
            loss = gf.load_loss("avatars-style", reference=avatars.portrait("ada"))
        options: dict[str, Any] = {"max_iterations": 2, "candidates": 2, "watermark": True}
        solution = gf.solve(sampler, loss, save_to=place / "soak", **options)
        first = solution.images if first is None else first
        assert torch.equal(solution.images, first), "a picture that is another than the first time"
        if number % 10 == 5:
            gf.resume(gf.Solution.load(place / "soak"), max_iterations=3, sampler=sampler, loss=loss)
            assert gf.verify(place / "soak").same
        shutil.rmtree(place / "soak")
        if number % 10 == 9:
            gc.collect()
            samples.append((_resident(), len(os.listdir("/proc/self/fd"))))
    start = samples[min(4, len(samples) - 1)]  # by then everything is loaded and every cache is filled
    growth, handles = max(one[0] for one in samples[-5:]) - start[0], samples[-1][1] - start[1]
    return {"solves": arguments.solves, "bytes": growth, "handles": handles}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _sent(picture: Image.Image, jpeg: bool = False, half: bool = False) -> torch.Tensor:
    if half:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BICUBIC)
    if jpeg:
        picture.save(content := io.BytesIO(), "JPEG", quality=75)
        picture = Image.open(content)
    return images.from_pil(picture)[0]


def photograph(seed: int, size: int = 512) -> torch.Tensor:
    """A picture with the spectrum of photographs, and discs with edges before it."""
    draw = np.random.default_rng(seed)
    frequency = np.fft.fftfreq(size)
    fall = np.maximum(np.hypot(frequency[:, None], frequency), 1 / size) ** -1.2

    def layer() -> Any:
        values = np.fft.ifft2(np.fft.fft2(draw.standard_normal((size, size))) * fall).real
        return values / values.std()

    picture = layer()[..., None] + 0.5 * np.stack([layer() for _ in range(3)], -1)
    y, x = np.mgrid[:size, :size]
    for _ in range(40):
        cx, cy, radius = draw.random(3) * (size, size, size / 5)
        disc = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
        picture[disc] = 0.3 * picture[disc] + 1.5 * draw.standard_normal(3)
    pixels = torch.from_numpy((0.5 + 0.2 * picture).clip(0, 1)).permute(2, 0, 1)
    return (pixels * 255).round().float() / 255


WAYS: dict[str, dict[str, bool]] = {
    "as saved": {},
    "JPEG, quality 75": {"jpeg": True},
    "half the size": {"half": True},
    "half the size, then JPEG 75": {"half": True, "jpeg": True},
}


def find(arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Look for the watermark where it is and where it is not."""
    sampler = gf.load_sampler("avatars-perflow")
    made = gf.solve(sampler, gf.as_loss(lambda x: x.flatten(1).mean(1), "grey"), prompt="a person",
                    seed=list(range(arguments.pictures - 8)), max_iterations=0, candidates=1).images  # fmt: skip
    portraits = [images.read_image(path) for path in sorted(avatars.portrait("ada").parent.glob("*.png"))]
    kinds = {
        "avatars, 128": [*torch.cat(portraits), *made],
        "photograph-like, 512": [*map(photograph, range(arguments.pictures))],
    }
    found: dict[str, Any] = {}
    for kind, pictures in kinds.items():
        marked = [watermark.mark(picture) for picture in pictures]
        noise = torch.stack([(one - other).square().mean() for one, other in zip(marked, pictures, strict=True)])
        rows: dict[str, Any] = {}
        for way, options in WAYS.items():
            hits, misses = (
                [watermark.score(_sent(images.to_pil(one), **options)) for one in some] for some in (marked, pictures)
            )
            rows[way] = {
                "recall": sum(score >= watermark.FOUND for score in hits) / len(hits),
                "lowest": round(min(hits), 2),
                "false": sum(score >= watermark.FOUND for score in misses) / len(misses),
                "highest": round(max(misses), 2),
            }
        found[kind] = {"pictures": len(pictures), "psnr": round(float(-10 * noise.mean().log10()), 1), "ways": rows}
    return found


def fuzzed(arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Read what tools/fuzz.py has tried so far: `python tools/fuzz.py --to benchmarks/results/fuzz.json` adds to it."""
    found: dict[str, Any] = json.loads(FUZZED.read_text())
    return found


PARTS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    "files": files,
    "kills": kills,
    "soak": soak,
    "watermark": find,
    "fuzz": fuzzed,
}


def page(found: dict[str, Any]) -> str:
    """Write the page."""
    bad, killed, soaked, fuzz = found["files"], found["kills"], found["soak"], found["fuzz"]
    lines = [
        "# What it withstands",
        "",
        "<!-- Written by benchmarks/reliability.py. -->",
        "",
        f"Measured by `python benchmarks/reliability.py` on {found['machine']}, {found['date']}.",
        "",
        "| | |",
        "|---|---|",
        f"| bad picture files, pipes and links tried | {bad['tried']}: {bad['refused']} refused, the others read |",
        f"| of which ended in an error of another kind | {len(bad['raised'])} |",
        f"| the longest took | {bad['longest']:.2f} s |",
        f"| processes killed (SIGKILL) while they solved and saved | {killed['kills']} |",
        f"| of which left a run that goes on | {killed['survived']} |",
        f"| iterations that had to be done again, at most, with a checkpoint every second one | {killed['behind']} |",
        f"| rows of the history lost | {killed['rows lost']} |",
        f"| runs that differ, in any bit, from one that nothing interrupted | {killed['differing']} |",
        f"| solves, saved and loaded, in one process | {soaked['solves']} |",
        f"| growth of its memory after the first fifty | {soaked['bytes'] / 1e6:.1f} MB (bound: {BYTES / 1e6:.0f}) |",
        f"| growth of its open files | {soaked['handles']} (bound: {HANDLES}) |",
        "",
        "## Files damaged at random",
        "",
        "`python tools/fuzz.py --minutes 60` has hypothesis damage files, each of which may take two seconds and so",
        "much memory, may write nothing beside its folder, and ends in a reading or in a message of guideflow's own.",
        "The tests do the same for some seconds every time. So far it ran",
        f"{fuzz['minutes']:.0f} minutes beside other work, {fuzz['minutes of a core']:.0f} of them on a core:",
        "",
        "| | files tried |",
        "|---|---|",
        *(f"| {kind} | {count} |" for kind, count in fuzz["tried"].items()),
        "",
        f"In {fuzz['failures']} rounds, of 40 or 100 files each, something did not hold. It is mended, and each fault",
        "has a test. The gravest was a spec of thousands of open brackets, which took a minute to be refused.",
        "",
        "## The watermark",
        "",
        f"The mark counts as found from a score of {watermark.FOUND} on, five standard deviations of one without it.",
        "*Lowest* and *highest* are the lowest score of what was marked and the highest of what was not.",
        "",
    ]
    for kind, one in found["watermark"].items():
        lines += [
            f"{one['pictures']} pictures, {kind} pixels; the mark is {one['psnr']} dB below them:",
            "",
            "| | found again | lowest | found where it is not | highest |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {way} | {row['recall']:.0%} | {row['lowest']:.2f} | {row['false']:.0%} | {row['highest']:.2f} |"
            for way, row in one["ways"].items()
        ]
        lines.append("")
    lines += [
        "The photograph-like pictures have the spectrum of photographs, and discs with sharp edges before it; the",
        "benchmark makes them.",
        "Pictures with a side of less than 128 pixels carry no mark, and cropping removes it.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, keep the numbers and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all by default")
    parser.add_argument("--solves", type=int, default=500)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--pictures", type=int, default=40)
    arguments = parser.parse_args()
    if arguments.solves < 60:
        parser.error("--solves has to be 60 at least: the first fifty fill caches and do not count")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in arguments.parts or PARTS:
        with tempfile.TemporaryDirectory() as place:
            found[name] = PARTS[name](arguments, Path(place))
        print(name, json.dumps(found[name]), flush=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    found["machine"] = f"a {os.cpu_count()}-core {platform.machine()} CPU, one thread"
    found["date"] = datetime.date.today().strftime("%Y-%m")
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(found))
    soaked = found["soak"]
    assert soaked["bytes"] <= BYTES and soaked["handles"] <= HANDLES, "the soak grew beyond its bound"


if __name__ == "__main__":
    main()
