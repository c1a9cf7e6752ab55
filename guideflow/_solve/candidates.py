"""Where to start: of a few noises of each image, the one whose unguided picture has the lowest loss."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from guideflow.problem import Problem, draw_noise


class Start(NamedTuple):
    """The problem with the noises chosen, and unguided images of the seeds' own if there was something to choose."""

    problem: Problem
    chosen: Tensor
    plain: Tensor | None
    evaluations: int


def candidate_seed(seed: int, number: int) -> int:
    """Return the seed of a candidate: the seed itself first, then what (seed, number) hashes to, 63 bits."""
    if number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:8], "big") >> 1


def choose_start(problem: Problem, seeds: Sequence[int], candidates: int) -> Start:
    """Roll candidates out without gradients, one of every image at a time, and keep the best of each image.

    Image i draws candidate j from (seed i, j) alone. A loss that is nan or inf loses to any other.
    """
    sampler, losses, plain = problem.sampler, list[Tensor](), None
    if candidates == 1:
        return Start(problem, torch.zeros(len(seeds), dtype=torch.int64, device=sampler.device), None, 0)
    for number in range(candidates):
        now = replace(problem, noise=draw_noise(sampler, [candidate_seed(seed, number) for seed in seeds]))
        rollout = now.rollout(now.z0, lambda k, end_point: torch.zeros_like(end_point), gradients=False)
        losses.append(rollout.loss.nan_to_num(torch.inf, torch.inf, torch.inf))
        plain = rollout.images if plain is None else plain
    chosen = torch.stack(losses).argmin(0)
    best = draw_noise(sampler, [candidate_seed(*one) for one in zip(seeds, chosen.tolist(), strict=True)])
    return Start(replace(problem, noise=best), chosen, plain, candidates * problem.num_steps)
