"""Where to start: of a few noises of each image, the one whose unguided picture has the lowest loss."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from guideflow.problem import Problem, draw_noise
from guideflow.types import where


class Start(NamedTuple):
    """A start of each image.

    Arguments:
        problem: the problem with the noises chosen.
        chosen: which candidate it was, (B,); 0 is the seed's own noise.
        plain: unguided images of the seeds' own noise; None if there was nothing to choose.
        evaluations: network evaluations it took.
    """

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
    best, device = problem, problem.sampler.device
    chosen = torch.zeros(len(seeds), dtype=torch.int64, device=device)
    if candidates == 1:
        return Start(problem, chosen, None, 0)
    loss = plain = None
    for number in range(candidates):
        noise = draw_noise(problem.sampler, [candidate_seed(seed, number) for seed in seeds])
        now = replace(problem, noise=noise)
        rollout = now.rollout(now.z0, lambda k, end_point: torch.zeros_like(end_point), gradients=False)
        found = rollout.loss.nan_to_num(nan=torch.inf)
        if loss is None:
            loss, plain = found, rollout.images
            continue
        better = found < loss
        loss, chosen = torch.where(better, found, loss), torch.where(better, number, chosen)
        best = replace(problem, noise=where(better, noise, best.noise))
    return Start(best, chosen, plain, candidates * problem.num_steps)
