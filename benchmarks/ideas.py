"""Tries ideas that might bring `auto` more likeness in the time that it takes, in the avatars world.

    python tools/avatars/render.py --train 0       # held-out renders, once
    python benchmarks/ideas.py run                 # every idea on people who serve nothing else
    python benchmarks/ideas.py table               # benchmarks/results/ideas.md, and the table of "Fewer iterations"

`run` goes on where it was interrupted; `--ideas a;b`, `--families a,b` and `--pairs N` do a part of it. Each idea is
`auto` but for one thing. Likeness is judged by a network that no loss uses; time is
processor time.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from acceleration import clean
from avatars import (
    CACHE,
    FIRST,
    HERE,
    PEOPLE,
    PROMPTS,
    RESULTS,
    PairedIdentity,
    cases,
    denoise_error,
    machine,
    write_between,
)
from torch import Tensor
from torch.nn import functional as F

import guideflow as gf
from guideflow._solve.candidates import candidate_seed
from guideflow.solvers import (
    Guided,
    LookaheadSolver,
    Move,
    Outlook,
    State,
    Window,
    Wrapper,
    draw,
    look,
    step_size,
    unit_clip,
)
from guideflow.types import where
from guideflow_avatars import judges

PART, PAGE = "ideas", HERE.parent / "docs" / "design" / "fewer-iterations.md"
PEOPLE[PART], FIRST[PART], PROMPTS[PART] = 32, 32, 1
BATCH, NOISES, ITERATIONS = 8, 16, 12
MEASURES = ("loss", "judge", "prompt", "denoise")


@dataclass(frozen=True)
class Jitter(Wrapper):
    """Take gradients beside the controls: shake them, ever less, and stand still in the last iteration."""

    name: ClassVar[str] = "jitter"

    size: float = 1.0

    def first(self, problem: gf.Problem, state: State) -> dict[str, Tensor]:
        """Nothing has been shaken yet."""
        return {"shake": torch.zeros_like(state.controls).transpose(0, 1)}

    def change(self, problem: gf.Problem, state: State, d: Tensor) -> Move:
        """u <- u + d - shake + shake', with shake' of the length of `size` steps, less and less."""
        left = 1 - (state.iteration + 1) / (problem.horizon or ITERATIONS)
        fresh = torch.stack([draw(problem, state.iteration, k) for k in range(problem.num_steps)])
        unit = step_size(1.0, state.z0) / state.z0[0].numel() ** 0.5
        shake = self.size * left * unit * fresh * (d[1:].flatten(2).norm(dim=2) > 0)[..., None, None, None]
        change = torch.cat([d[:1], d[1:] - state.memory["shake"].transpose(0, 1) + shake])
        return Move(change, {"shake": shake.transpose(0, 1)})


@dataclass(frozen=True)
class ByLoss(Wrapper):
    """Longer steps for images whose loss is high, shorter for those that are nearly there."""

    name: ClassVar[str] = "by-loss"

    usual: float = 0.25
    longest: float = 2.0

    def change(self, problem: gf.Problem, state: State, d: Tensor) -> Move:
        """u <- u + clamp(L / usual, 1 / 2, longest) d."""
        factor = (state.rollout.loss / self.usual).clamp(0.5, self.longest)
        return Move(factor.view(1, -1, 1, 1, 1) * d)


@dataclass(frozen=True)
class Ahead(LookaheadSolver):
    """FlowChef that leaves the finished latent alone, in steps that grow short, and forgets as `auto` does.

    u_k <- (1 - decay f_i) u_k - f_i s N(a_k A_k dL/dx_k),    k = 1..K-1,    u_K = 0
    """

    name: ClassVar[str] = "ahead"

    start: float = 4.0
    end: float = 0.5
    decay: float = 0.02

    def guide(self, problem: gf.Problem, outlook: Outlook, window: Window) -> Guided:
        """Move the end of every window but the last."""
        row, z, u, key, _ = window
        if row.index == problem.num_steps - 1:
            with torch.no_grad():
                return Guided(problem.sampler.predict(z, row, problem.condition), torch.zeros_like(u))
        sight = look(problem, outlook, row, z, u)
        f = self.start + (self.end - self.start) * key[0] / max((problem.horizon or 6) - 1, 1)
        g = unit_clip(row.state * outlook.state[row.index] * sight.by_clean[None])[0]
        return Guided(sight.output, -f * (step_size(1.0, z) * g + self.decay * u))


@dataclass(frozen=True)
class Straight(Wrapper):
    """Gradients of the states that take every network output as a constant: that of the finished latent, scaled."""

    name: ClassVar[str] = "straight"

    def change(self, problem: gf.Problem, state: State, d: Tensor) -> Move:
        """The move is made for the last control, and all make it; and forget."""
        return Move(torch.cat([torch.zeros_like(d[:1]), d[-1:] - 0.02 * state.controls]))


class Augmented(gf.Loss):
    """The mean of a loss over the picture, its mirror image, and both moved, scaled and under noise."""

    name = "augmented"

    def __init__(self, loss: gf.Loss, views: int) -> None:
        """The same views in every call."""
        self.loss, self.views = loss, views
        generator = torch.Generator().manual_seed(0)
        self.moves = torch.rand(views, 3, generator=generator) * 2 - 1
        self.noises = 0.04 * torch.randn(views, 3, 128, 128, generator=generator)

    def __call__(self, image: Tensor) -> Tensor:
        """Return the mean."""
        total = self.loss(image)
        for i, ((x, y, size), noise) in enumerate(zip(self.moves.tolist(), self.noises, strict=True)):
            mirror, zoom = (-1.0 if i % 2 == 0 else 1.0), 1 + 0.06 * size
            affine = torch.tensor([[mirror * zoom, 0, 0.05 * x], [0, zoom, 0.05 * y]]).expand(len(image), 2, 3)
            grid = F.affine_grid(affine, list(image.shape), align_corners=False)
            view = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
            total = total + self.loss((view + noise).clamp(0, 1))
        return total / (1 + self.views)


class Idea(NamedTuple):
    """What differs from `auto`."""

    make: Callable[[gf.Sampler], gf.Solver] = clean
    iterations: int = ITERATIONS
    views: int = 0  # of the picture besides itself
    noises: int = NOISES
    near: float = 0.0  # how far half of the noises are from the best of the other half; 0 draws all anew
    walk: bool = False  # from the best so far instead, one after another
    two: int = 0  # iterations of the two best starts, before one of them is given up
    before: gf.Solver | None = None  # a pass that comes first


def noisy(sampler: gf.Sampler, noise: float, **others: float) -> gf.Solver:
    """`auto` that moves the first state too."""
    auto = gf.Auto().parts(sampler.num_steps)
    return gf.Annealed(gf.Windows(gf.FlowGrad(decay=0.02, noise=noise, clip=0.03)), start=auto.start, end=auto.end)


def straight(sampler: gf.Sampler) -> gf.Solver:
    """`auto` by the gradient of decoder and loss alone."""
    return gf.Annealed(gf.Windows(Straight(gf.FlowGrad(clip=0.03))), start=5.0, end=0.25)


def polyak(sampler: gf.Sampler) -> gf.Solver:
    """Polyak's steps, without the last control, that forget and grow short."""
    return gf.Annealed(gf.Windows(gf.Polyak(gf.FlowGrad(decay=0.02, clip=0.03), cap=5.0)), start=1.0, end=0.25)


def by_loss(sampler: gf.Sampler, longest: float = 2.0) -> gf.Solver:
    """Steps in proportion to the loss."""
    return gf.Annealed(gf.Windows(ByLoss(gf.FlowGrad(decay=0.02, clip=0.03), longest=longest)), start=5.0, end=0.25)


IDEAS = {
    "auto": Idea(),
    "ahead": Idea(lambda k: Ahead(), 6),
    "all controls by the last one's gradient": Idea(straight, 15),
    "the noise moves too": Idea(functools.partial(noisy, noise=1.0)),
    "4 more views": Idea(views=4),
    "half of the noises near the best": Idea(near=0.5),
    "half of the noises a walk from the best": Idea(near=0.5, walk=True),
    "24 noises, half of them a walk, 9 iterations": Idea(iterations=9, noises=24, near=0.5, walk=True),
    "two starts for 3 iterations, 9 in all": Idea(two=3, iterations=9),
    "shaken controls": Idea(lambda k: gf.Windows(Jitter(clean(k), size=8.0))),
    "steps by the loss": Idea(by_loss),
    "Polyak": Idea(polyak),
    "a walk, and a pass of universal before 7 iterations": Idea(
        iterations=7, near=0.5, walk=True, before=gf.solvers.Universal(scale=8.0, repeats=2)
    ),
    "a walk, a pass of universal, 7 iterations from step 8, decay 0.01": Idea(
        functools.partial(clean, start=8.0, decay=0.01),
        iterations=7,
        near=0.5,
        walk=True,
        before=gf.solvers.Universal(scale=8.0, repeats=2),
    ),
}


@functools.cache
def sampler(family: str) -> gf.Sampler:
    """The sampler of a family, loaded once."""
    return gf.load_sampler(f"avatars-{family}")


def starts(family: str, rows: slice, idea: Idea) -> dict[str, Tensor]:
    """First states to begin from, best and second, with their losses; remembered on disk."""
    path = CACHE / f"ideas-starts-{family}-{idea.noises}-{idea.near:g}-{idea.walk}-{rows.start}-{rows.stop}.pt"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        torch.save(draw_starts(family, rows, idea), path)
    return torch.load(path, weights_only=True)


def posed(family: str, rows: slice, loss: gf.Loss, initial: Tensor | None = None) -> gf.Problem:
    """The problem of some pairs, from noises of their own or from those given."""
    _, prompts, seeds, _ = cases(PART)
    noise = gf.draw_noise(sampler(family), seeds[rows])
    noise = noise if initial is None else replace(noise, initial=initial)
    return gf.Problem(sampler(family), loss, noise, sampler(family).condition(prompts[rows]))


def draw_starts(family: str, rows: slice, idea: Idea) -> dict[str, Tensor]:
    """Try noises, all independent or half of them near the best of the others; the two of lowest loss."""
    references, _, seeds, _ = cases(PART)
    problem = posed(family, rows, PairedIdentity(references[rows]))
    noises, losses = [], []
    began = time.process_time()
    half = idea.noises // 2
    for j in range(idea.noises):
        own = gf.draw_noise(sampler(family), [candidate_seed(seed, j) for seed in seeds[rows]]).initial
        if idea.near and j >= half:
            best = torch.stack(losses[: None if idea.walk else half]).argmin(0)
            parent = torch.stack(noises)[best, torch.arange(len(best))]
            own = (1 - idea.near**2) ** 0.5 * parent + idea.near * own
        now = replace(problem, noise=replace(problem.noise, initial=own))
        noises.append(own)
        losses.append(now.rollout(now.z0, lambda k, e: torch.zeros_like(e), gradients=False).loss)
    order = torch.stack(losses).argsort(0)[:2]
    pick = torch.arange(len(order[0]))
    return {
        "first": torch.stack(noises)[order[0], pick],
        "second": torch.stack(noises)[order[1], pick],
        "losses": torch.stack(losses),
        "seconds": torch.tensor(time.process_time() - began),
    }


def solve(family: str, idea: Idea, rows: slice) -> dict[str, Tensor]:
    """Measures of each pair, and the processor time of all."""
    references, prompts, _, _ = cases(PART)
    plain = PairedIdentity(references[rows])
    loss = Augmented(plain, idea.views) if idea.views else plain
    found, solver = starts(family, rows, idea), idea.make(sampler(family))
    posed(family, rows, loss).rollout(found["first"], lambda k, e: torch.zeros_like(e))  # warms up
    began = time.process_time()
    states = [begin(replace(posed(family, rows, loss, found["first"]), horizon=idea.iterations), idea, solver)]
    if idea.two:
        states.append(begin(replace(posed(family, rows, loss, found["second"]), horizon=idea.iterations), idea, solver))
    runs = [list(advance(problem, solver, state, idea.two or idea.iterations)) for problem, state in states]
    if idea.two:
        better = runs[1][-1].rollout.loss < runs[0][-1].rollout.loss
        initial = torch.where(better[:, None, None, None], found["second"], found["first"])
        problem = replace(posed(family, rows, loss, initial), horizon=idea.iterations)
        runs.append(list(advance(problem, solver, where(better, runs[1][-1], runs[0][-1]), idea.iterations - idea.two)))
    best = runs[0][0].rollout
    for state in (state for run in runs for state in run):
        best = where(state.rollout.loss < best.loss, state.rollout, best)
    seconds = time.process_time() - began
    with torch.no_grad():
        return {
            "loss": plain(best.images),
            "judge": judges.identity_similarity(best.images, references[rows]),
            "prompt": judges.prompt_accuracy(best.images, prompts[rows]).float(),
            "denoise": denoise_error(best.states[-1], prompts[rows]),
            "seconds": torch.tensor(seconds) + found["seconds"],
            "started": found["losses"].min(0).values,
        }


def begin(problem: gf.Problem, idea: Idea, solver: gf.Solver) -> tuple[gf.Problem, State]:
    """The first state: without controls, or with those of a pass."""
    if idea.before is None:
        return problem, solver.init(problem)
    state = idea.before.step(problem, idea.before.init(problem))
    first = State(0, state.z0, state.controls, problem.rollout(state.z0, state.controls))
    return problem, replace(first, memory=solver.remember(problem, first))  # type: ignore[attr-defined]


def advance(problem: gf.Problem, solver: gf.Solver, state: State, iterations: int):
    """Yield the state and as many more."""
    yield state
    for _ in range(iterations):
        state = solver.step(problem, state)
        yield state


def measured(family: str, name: str, pairs: int) -> dict[str, Tensor]:
    """Measures of the first pairs; each batch is remembered on disk."""
    each = []
    for start in range(0, pairs, BATCH):
        rows = slice(start, min(start + BATCH, pairs))
        key = hashlib.sha256(name.encode()).hexdigest()[:8]
        path = CACHE / f"ideas-{family}-{key}-{rows.start}-{rows.stop}.pt"
        if not path.exists():
            torch.save(solve(family, IDEAS[name], rows), path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
        each.append(torch.load(path, weights_only=True))
    return {
        key: torch.stack([one[key] for one in each]).sum()
        if key == "seconds"
        else torch.cat([one[key] for one in each])
        for key in each[0]
    }


def run(families: list[str], ideas: list[str], pairs: int) -> None:
    """Measure, and compare with `auto` pair by pair."""
    CACHE.mkdir(exist_ok=True)
    path = RESULTS / "ideas.json"
    report = json.loads(path.read_text()) if path.exists() else {"rows": []}
    for family in families:
        auto = measured(family, "auto", pairs)
        for name in ideas:
            found = measured(family, name, pairs)
            row = {"family": family, "idea": name, "pairs": pairs, "seconds": found["seconds"].item() / pairs}
            row |= {key: found[key].nanmean().item() for key in MEASURES}
            row["start"] = found["started"].mean().item()
            row["less auto"] = interval(found["judge"] - auto["judge"])
            print(json.dumps(row), flush=True)
            print(
                " ".join(
                    f"{a:.2f}/{b:.2f}" for a, b in zip(found["judge"].tolist(), found["loss"].tolist(), strict=True)
                ),
                flush=True,
            )
            report["rows"] = [one for one in report["rows"] if (one["family"], one["idea"]) != (family, name)] + [row]
            report |= {"date": str(datetime.date.today()), "machine": machine()}
            path.write_text(json.dumps(report, indent=1) + "\n")


def table() -> None:
    """Write the table, and put it on the page."""
    report = json.loads((RESULTS / "ideas.json").read_text())
    head = ["family", "idea", "pairs", "time", "start", "guidance loss", "held-out judge", "less `auto`", "prompt"]
    head.append("denoise error")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    auto = {row["family"]: row for row in report["rows"] if row["idea"] == "auto"}
    for row in sorted(
        report["rows"], key=lambda row: (list(auto).index(row["family"]), list(IDEAS).index(row["idea"]))
    ):
        beside = auto[row["family"]]
        apart = "{:+.2f} to {:+.2f}".format(*row["less auto"][1:]) if row is not beside else ""
        cells = [f"`avatars-{row['family']}`", row["idea"], str(row["pairs"])]
        cells += [f"{row['seconds'] / beside['seconds']:.2f}", f"{row['start']:.3f}"]
        cells += [f"{row['loss']:.3f}", f"{row['judge']:.3f}", apart]
        cells += [f"{row['prompt']:.3f}", f"{row['denoise']:.4f} ({row['denoise'] / beside['denoise']:.2f}x)"]
        lines.append(f"| {' | '.join(cells)} |")
    caption = (
        "Pairs of people who serve the search only, whom `auto` finds hardest. Time is processor time, relative "
        "to `auto`, candidates included; *start* is the guidance loss of the noise that was chosen; differences in "
        f"likeness have 95 % intervals of a paired bootstrap. Measured on {report['machine']}, {report['date']}, by "
        "`python benchmarks/ideas.py run` and `table`."
    )
    text = "\n".join(lines)
    (RESULTS / "ideas.md").write_text(f"{caption}\n\n{text}\n")
    write_between(PAGE, "ideas", f"{caption}\n\n{text}\n")
    print(text)


def interval(difference: Tensor) -> list[float]:
    """The mean, and the 95 % interval of a bootstrap over the pairs."""
    draws = torch.randint(len(difference), (2000, len(difference)), generator=torch.Generator().manual_seed(0))
    low, high = difference[draws].mean(1).double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return [difference.mean().item(), low, high]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--families", default="perflow")
    parser.add_argument("--ideas", default=";".join(IDEAS), help="names with semicolons between them")
    parser.add_argument("--pairs", type=int, default=16)
    options = parser.parse_args()
    if options.what == "table":
        table()
        return
    run(options.families.split(","), options.ideas.split(";"), options.pairs)


if __name__ == "__main__":
    main()
