"""How well sweeps run: what a second worker brings, what the driver costs, and how large a sweep may be.

    python benchmarks/sweeps.py workers          two Ray workers against one, on avatars; needs two quiet cores
    python benchmarks/sweeps.py waiting          the same on jobs that only wait for a second: what the engine loses
    python benchmarks/sweeps.py references       batches of several references against batches of one each, on avatars
    python benchmarks/sweeps.py overhead         what the driver adds to a job that waits for a second
    python benchmarks/sweeps.py plan             a spec of 100,000 jobs, counted and estimated
    python benchmarks/sweeps.py million          1,000,000 jobs whose solves are left out: the driver's memory

Give OMP_NUM_THREADS=1. Each prints a line or a few; nothing is written but to a folder for temporary files.
"""

import dataclasses
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

AVATARS = {
    "sampler": "avatars-perflow",
    "loss": "avatars-identity",
    "references": "package:guideflow_avatars/portraits",
    "prompts": "a smiling person in a red shirt, blue background",
    "batch": 1,
}


def workers(iterations: int = 4) -> None:
    """Compare two workers with one on jobs that compute."""
    _compare({**AVATARS, "solver": "anchored", "solve": {"max_iterations": iterations}, "seeds": [0, 1]})


def waiting(jobs: int = 12) -> None:
    """Compare two workers with one on jobs that wait."""
    with _waiting(jobs) as spec:
        _compare(spec)


def _compare(spec: dict[str, Any]) -> None:
    """Time a sweep on one worker and on two, from when each has finished a job: models are loaded by then."""
    from guideflow.sweep import Spec, sweep

    rates: dict[int, list[float]] = {1: [], 2: []}
    for count in (1, 2, 2, 1):
        marks: list[tuple[float, int]] = []
        with tempfile.TemporaryDirectory() as folder:
            made = Spec.model_validate({**spec, "workers": {"count": count, "cpus": 1}})

            def watch(counts: Any, finished: Any, marks: Any = marks) -> None:
                marks.append((time.perf_counter(), counts.done))

            sweep(made, folder, ray="local", watch=watch)
        (began, before), (ended, done) = marks[count], marks[-count]  # while all were at work
        rates[count].append((done - before) / (ended - began))
        print(f"{count} worker{'s' * (count > 1)}: {1 / rates[count][-1]:.2f} s a job", flush=True)
    print(f"two workers against one: {statistics.fmean(rates[2]) / statistics.fmean(rates[1]):.2f} x")


@contextmanager
def _waiting(jobs: int) -> Iterator[dict[str, Any]]:
    """Give the spec of jobs that take a second and no processor, with pictures of 128x128."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "losses.py")
        file.write_text(
            "import time\ndef waits(image):\n    time.sleep(0.5 * len(image))\n    return image.flatten(1).mean(1)\n"
        )
        yield {
            "sampler": {"name": "toy-mixture", "options": {"size": 128, "num_steps": 1}},
            "loss": f"{file}:waits",
            "solver": "anchored",
            "solve": {"max_iterations": 1},
            "seeds": list(range(jobs)),
            "batch": 1,
        }


def references(iterations: int = 4) -> None:
    """Compare batches that hold several references with those that hold the two prompts of one, by processor time."""
    from guideflow.sweep import Spec, sweep
    from guideflow.sweep.running import in_process

    def apart(batches: Iterator[Any], room: Any) -> Iterator[Any]:
        def split() -> Iterator[Any]:
            for batch in batches:
                for _, jobs in itertools.groupby(batch.jobs, key=lambda job: job.reference.name):
                    yield dataclasses.replace(batch, jobs=tuple(jobs))

        return in_process(split(), room)

    prompts = [AVATARS["prompts"], "a surprised person in a blue t-shirt, green background"]
    solve = {"max_iterations": iterations, "candidates": 1}
    made = Spec.model_validate({**AVATARS, "prompts": prompts, "solver": "anchored", "solve": solve, "batch": 8})
    seconds: dict[str, list[float]] = {"together": [], "apart": []}
    for name in ("warm up", "together", "apart", "apart", "together"):
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            counts = sweep(made, folder, engine=apart if name == "apart" else in_process)
            if name in seconds:
                seconds[name].append((time.process_time() - began) / counts.done)
                print(f"{name}: {seconds[name][-1]:.2f} s of the processor a job", flush=True)
    print(f"apart against together: {statistics.fmean(seconds['apart']) / statistics.fmean(seconds['together']):.2f} x")


def overhead(jobs: int = 20) -> None:
    """Compare what the driver does for a job with what the worker does, by the clock and by the processor's time."""
    with _waiting(jobs) as spec:
        _overhead(spec)


def _overhead(spec: dict[str, Any]) -> None:
    from guideflow.sweep import Spec, sweep
    from guideflow.sweep.running import in_process
    from guideflow.sweep.worker import Finished

    inside: list[tuple[float, float]] = []

    def now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def timed(batches: Iterator[Any], room: Any) -> Iterator[Finished]:
        engine = in_process(batches, room)
        while True:
            began = now()
            finished = next(engine, None)
            inside.append((now()[0] - began[0], now()[1] - began[1]))
            if finished is None:
                return
            yield finished

    marks: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        sweep(Spec.model_validate(spec), folder, engine=timed, watch=lambda counts, _: marks.append(now()))
    jobs = len(inside) - 1
    solves = sum(one[0] for one in inside)
    for kind, name in enumerate(("on the clock", "of the processor")):
        driver = marks[-1][kind] - marks[0][kind] - sum(one[kind] for one in inside)
        each = f"{1000 * driver / jobs:.1f} ms {name}"
        print(f"{jobs} jobs of {solves / jobs:.2f} s: the driver adds {each} to each, {driver / solves:.2%}")


def plan() -> None:
    """Count and estimate 100,000 jobs in a process of its own, as `--dry-run` does."""
    people = {"name": "anchored", "grid": {"scale": [i / 100 for i in range(1, 101)]}}
    spec = {
        "sampler": "toy-mixture",
        "loss": "losses.py:bright",
        "solver": people,
        "seeds": {"start": 0, "count": 1000},
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "spec.json").write_text(json.dumps(spec))
        Path(folder, "losses.py").write_text("def bright(image):\n    return image.flatten(1).mean(1)\n")
        code = (
            "import resource, sys\nimport torch\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "from guideflow.__main__ import main\n"
            "main(['sweep', 'spec.json', '--dry-run'])\n"
            "after = resource.getrusage(resource.RUSAGE_SELF)\n"
            "print(f'peak {after.ru_maxrss / 1024:.0f} MB, of them {before / 1024:.0f} of torch; '\n"
            "      f'{after.ru_utime + after.ru_stime:.1f} s of processor time, start included')\n"
        )
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
        print(f"{time.perf_counter() - began:.1f} s in all")


def million(jobs: int = 1_000_000) -> None:
    """Sweep jobs that are finished at once, and watch the memory of the process."""
    from guideflow.sweep import Plan, Spec, read, sweep
    from guideflow.sweep.rows import about
    from guideflow.sweep.worker import Finished

    spec = Spec.model_validate(
        {"sampler": "toy-linear", "loss": "losses.py:bright", "seeds": {"start": 0, "count": jobs}, "batch": 1000}
    )

    def nothing(batches: Iterator[Any], room: Any) -> Iterator[Finished]:
        for batch in batches:
            yield Finished([row | {"status": "done", "loss_value": 0.5} for row in about(batch, batch.jobs)], {})

    marks: list[tuple[int, float]] = []

    def watch(counts: Any, finished: Any) -> None:
        if counts.done % (jobs // 10) == 0 and counts.done:
            marks.append((counts.done, resident()))
            print(f"{counts.done:>9} jobs: {marks[-1][1]:.0f} MB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("losses.py").write_text("def bright(image):\n    return image.flatten(1).mean(1)\n")
        began = time.perf_counter()
        counts = sweep(spec, "out", engine=nothing, watch=watch)
        seconds = time.perf_counter() - began
        assert counts.done == len(Plan(spec)) == read("out", ["job"]).num_rows
        size = Path("out/results.parquet").stat().st_size / 1e6
        os.chdir("/")
    growth = marks[-1][1] - marks[0][1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{growth:+.0f} MB from the first tenth to the last, peak {peak:.0f} MB; {seconds:.0f} s, table {size:.0f} MB"
    )


def resident() -> float:
    """Return the megabytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    commands = {one.__name__: one for one in (workers, waiting, references, overhead, plan, million)}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*map(int, sys.argv[2:]))
