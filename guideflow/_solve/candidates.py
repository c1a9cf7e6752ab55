"""Where to start: of a few noises of each image, the one whose unguided picture has the lowest loss.

Half of them may be a walk: each near the best so far, in place of one more that knows nothing of the others.

    n_j = xi_j,                                            j < ceil(N / 2), or radius = 1
    n_j = sqrt(1 - radius^2) n_best + radius xi_j,         the others, n_best the best of n_0..n_{j-1}

with xi_j the noise of (seed, j): a mixture of normal noises whose shares square to 1 is normal noise.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from guideflow.previewing import Previewing, judged
from guideflow.problem import Noise, Problem, Rollout, draw_noise
from guideflow.types import map_tensors, where


class Start(NamedTuple):
    """The problem with the noises chosen; and, if there was something to choose, what they and the seeds' own give.

    `error` is what ended the choice early.
    """

    problem: Problem
    chosen: Tensor
    plain: Tensor | None = None
    rollout: Rollout | None = None
    evaluations: int = 0
    error: BaseException | None = None


def candidate_seed(seed: int, number: int) -> int:
    """Return the seed of a candidate: the seed itself first, then what (seed, number) hashes to, 63 bits."""
    if number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:8], "big") >> 1


def near(parent: Noise, fresh: Noise, radius: float) -> Noise:
    """Return the noise of which a share is new: sqrt(1 - radius^2) parent + radius fresh."""
    return map_tensors(lambda old, new, axis: (1 - radius**2) ** 0.5 * old + radius * new, parent, fresh)


def choose_start(
    problem: Problem, seeds: Sequence[int], candidates: int, radius: float = 1.0, previews: bool = False
) -> Start:
    """Roll candidates out without gradients, one of every image at a time, and keep the best of each image.

    Image i draws what is new in candidate j from (seed i, j) alone. A loss that is nan or inf loses to any other. An
    interrupt, or what the loss raises, ends the choice with those rolled out so far; before there is one, it is raised.
    With `previews`, candidates are compared by those, which the rollout holds; the seeds' own are decoded all the same.
    """
    sampler, best, plain, number, noise = problem.sampler, None, None, 0, problem.noise
    chosen, lowest = torch.zeros(len(seeds), dtype=torch.int64, device=sampler.device), torch.tensor(torch.inf)
    error: BaseException | None = None
    if candidates == 1:
        return Start(problem, chosen)
    seen = Previewing.of(problem) if previews else problem
    try:
        for number in range(candidates):
            fresh = draw_noise(sampler, [candidate_seed(seed, number) for seed in seeds])
            walks = radius < 1 and 2 * number >= candidates
            now = replace(seen, noise=near(noise, fresh, radius) if walks else fresh)
            rollout = now.rollout(now.z0, lambda k, end_point: torch.zeros_like(end_point), gradients=False)
            loss = rollout.loss.nan_to_num(torch.inf, torch.inf, torch.inf)
            better = loss < lowest.to(loss)
            best = rollout if best is None else where(better, rollout, best)
            # Last, and together: an interrupt before this line leaves the candidates before.
            if plain is None:
                plain = judged(problem, rollout).images if previews else rollout.images
            chosen, lowest, noise = (
                torch.where(better, number, chosen),
                torch.where(better, loss, lowest.to(loss)),
                where(better, now.noise, noise),
            )
    except BaseException as raised:
        if plain is None:
            raise
        error = raised
    else:
        number += 1
    return Start(replace(problem, noise=noise), chosen, plain, best, number * problem.num_steps, error)
