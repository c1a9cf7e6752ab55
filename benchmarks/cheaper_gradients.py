"""What cheaper gradients cost and bring on avatars-perflow: time, memory, likeness and prompt at equal iterations.

    python benchmarks/cheaper_gradients.py            # 2 people x 4 prompts, 20 iterations; writes the table
    python benchmarks/cheaper_gradients.py --quick    # the same code with 2 images and 2 iterations, nothing written

Ways take turns, so that the machine's load meets all alike.
The denoiser is guided by prompt (scale 2) in the rows that need it, and compared with its own full gradient.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from avatars import HERE, RESULTS, PairedIdentity, cases, write_between
from torch import Tensor

import guideflow as gf
from guideflow.memory import kept_bytes
from guideflow.sampler import Row, Schedule
from guideflow_avatars import judges
from guideflow_diffusers.latent import LatentSampler

PAGE = HERE.parent / "docs" / "tutorials" / "memory-and-speed.md"


class Around(gf.AffineSampler):
    """A sampler whose network output is replaced by a function of it; the picture stays the same."""

    def __init__(self, inner: LatentSampler, change: Callable[[LatentSampler, Row, Tensor, Any], Tensor]) -> None:
        """Take everything else from the inner sampler."""
        self.inner, self.change, self.schedule = inner, change, inner.schedule
        self.latent_shape, self.image_size, self.device = inner.latent_shape, inner.image_size, inner.device
        self.dtype = inner.dtype

    def condition(self, prompts: Any, negative_prompts: Any = None) -> Any:
        """As the inner sampler."""
        return self.inner.condition(prompts, negative_prompts)

    def predict(self, z: Tensor, row: Row, condition: Any) -> Tensor:
        """Change the inner sampler's answer."""
        return self.change(self.inner, row, z, condition)

    def decode(self, z: Tensor) -> Tensor:
        """As the inner sampler."""
        return self.inner.decode(z)


def detached(sampler: LatentSampler, windows: int = 0) -> Around:
    """A sampler whose network is a constant for the gradient, in all but the last windows.

        z' = a_k z + b_k stop(predict(z, row_k)) + d_k n_k,    stop: what follows is a constant for the gradient

    Source: He et al., MPGD (2024); Patel et al., FlowChef (2024).
    """

    def change(inner: LatentSampler, row: Row, z: Tensor, condition: Any) -> Tensor:
        keeps = row.index >= inner.num_steps - windows
        with torch.set_grad_enabled(torch.is_grad_enabled() and keeps):
            return inner.predict(z, row, condition)

    return Around(sampler, change)


def conditional_branch(inner: LatentSampler, row: Row, z: Tensor, condition: Any) -> Tensor:
    """The gradient through the evaluation with the prompt; the one without is a constant."""
    t, scale = row.time, inner.guidance_scale
    with torch.no_grad():
        negative = inner._denoise(z, t, condition.negative, condition.negative_pooled, [])
    return negative + scale * (inner._denoise(z, t, condition.text, condition.pooled, []) - negative)


@dataclass
class Way:
    """One way of taking gradients, and what it is compared with."""

    name: str
    make: Callable[[], gf.Sampler]
    against: str
    sampler: gf.Sampler | None = None
    note: str = ""
    seconds: list[float] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)


def guided(schedule: Schedule | None = None) -> LatentSampler:
    """The sampler with classifier-free guidance on, so that the network is evaluated twice."""
    inner = gf.load_sampler("avatars-perflow")
    return inner.replace(schedule=schedule or inner.schedule, guidance_scale=2.0)


def channels_last() -> gf.Sampler:
    """Networks and their inputs with the channels innermost."""
    sampler = gf.load_sampler("avatars-perflow")
    for network in (sampler.parts.unet, sampler.parts.vae):
        network.to(memory_format=torch.channels_last)
    return sampler


def compiled() -> gf.Sampler:
    """The denoiser through torch.compile."""
    sampler = gf.load_sampler("avatars-perflow")
    network = torch.compile(sampler.parts.unet)
    # `Parts` freezes and asks for configuration and dtype, which the compiled module passes on.
    return sampler.replace(parts=replace(sampler.parts, unet=network), guidance_scale=1.0)


PLAIN, GUIDED = "full gradient", "full gradient, guided by prompt"
WAYS = [
    Way(PLAIN, lambda: gf.load_sampler("avatars-perflow"), PLAIN),
    Way("last 2 windows", lambda: detached(gf.load_sampler("avatars-perflow"), windows=2), PLAIN),
    Way("last window", lambda: detached(gf.load_sampler("avatars-perflow"), windows=1), PLAIN),
    Way("no network", lambda: detached(gf.load_sampler("avatars-perflow")), PLAIN),
    Way("bfloat16 network", lambda: gf.load_sampler("avatars-perflow", dtype="bfloat16"), PLAIN),
    Way("channels last", channels_last, PLAIN),
    Way("torch.compile", compiled, PLAIN),
    Way(GUIDED, guided, GUIDED),
    Way("conditional branch", lambda: Around(guided(), conditional_branch), GUIDED),
]


def prepare(way: Way, loss: gf.Loss, prompts: list[str]) -> None:
    """Make the sampler and warm it up; what does not work here is told in the table."""
    try:
        way.sampler = way.make()
        gf.solve(way.sampler, loss, prompt=prompts, max_iterations=1, candidates=1)
    except Exception as error:
        if way.name != "torch.compile":
            raise
        way.sampler, way.note = None, f"does not compile here: {type(error).__name__}"
        torch._dynamo.reset()


def run(way: Way, loss: gf.Loss, prompts: list[str], seeds: list[int], iterations: int) -> None:
    """Solve once; the seconds are those of the whole solve."""
    if way.sampler is None:
        return
    start = time.perf_counter()
    solver = gf.Annealed(gf.FlowGrad(decay=0.015), start=8.0, end=0.25)
    solution = gf.solve(
        way.sampler, loss, prompt=prompts, seed=seeds, solver=solver, max_iterations=iterations, keep="last"
    )
    way.seconds.append(time.perf_counter() - start)
    way.images = [solution.images, solution.unguided]


def kept(way: Way, loss: gf.Loss, prompts: list[str]) -> int:
    """Bytes that one graph of all windows, decoder and loss keeps."""
    sampler = way.sampler
    noise, condition = gf.draw_noise(sampler, range(len(prompts))), sampler.condition(prompts)
    z0 = sampler.prepare(noise.initial).requires_grad_()

    def graph() -> Tensor:
        z = z0
        for k in range(sampler.num_steps):
            z = sampler.step(k, z, condition, noise.steps[k])
        return loss(sampler.decode(z))

    return kept_bytes(graph)[1]


def report(ways: list[Way], loss: gf.Loss, prompts: list[str], references: Tensor) -> list[dict[str, Any]]:
    """Score every way."""
    rows: list[dict[str, Any]] = []
    for way in ways:
        row: dict[str, Any] = {"way": way.name, "against": way.against, "note": way.note}
        if way.sampler is not None:
            images, unguided = way.images
            row |= {
                "seconds": statistics.median(way.seconds),
                # What a compiled graph keeps is not seen from outside.
                "kept": None if way.name == "torch.compile" else kept(way, loss, prompts),
                "judge": judges.identity_similarity(images, references).mean().item(),
                "prompt": judges.prompt_accuracy(images, prompts).mean().item(),
                "distance": (images - unguided).square().mean((1, 2, 3)).sqrt().mean().item(),
            }
        rows.append(row)
    return rows


def table(found: dict[str, Any]) -> str:
    """The report for people."""
    rows = {row["way"]: row for row in found["rows"]}
    lines = [
        f"{found['images']} pictures, {found['iterations']} iterations of FlowGrad in steps that grow short, on "
        "`avatars-perflow`; time "
        f"and memory relative to the full gradient. Measured on a {found['threads']}-core CPU, {found['date']}, by "
        "`python benchmarks/cheaper_gradients.py`.",
        "",
        "| gradient | time | kept memory | held-out judge | prompt | distance |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        if row["note"]:
            lines.append(f"| {row['way']} | {row['note']} | | | | |")
            continue
        base = rows[row["against"]]
        memory = "" if row["kept"] is None else f"{row['kept'] / base['kept']:.2f}"
        scores = " | ".join(f"{row[key]:.3f}" for key in ("judge", "prompt", "distance"))
        lines.append(f"| {row['way']} | {row['seconds'] / base['seconds']:.2f} | {memory} | {scores} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Solve in turns, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    references, prompts, seeds, _ = cases("search")
    count, iterations, repeats = (2, 2, 1) if options.quick else (8, options.iterations, options.repeats)
    references, prompts, seeds = references[:count], prompts[:count], seeds[:count]
    loss = PairedIdentity(references)
    for way in WAYS:
        prepare(way, loss, prompts)
    for repeat in range(repeats):
        for way in WAYS:
            run(way, loss, prompts, seeds, iterations)
            print(f"round {repeat + 1}: {way.name} {way.note or f'{way.seconds[-1]:.1f} s'}", flush=True)
    found = {
        "date": str(datetime.date.today()),
        "threads": torch.get_num_threads(),
        "images": count,
        "iterations": iterations,
        "rows": report(WAYS, loss, prompts, references),
    }
    print(table(found))
    if not options.quick:
        (RESULTS / "cheaper-gradients.json").write_text(json.dumps(found, indent=1) + "\n")
        (RESULTS / "cheaper-gradients.md").write_text(table(found))
        write_between(PAGE, "cheaper", table(found))


if __name__ == "__main__":
    main()
