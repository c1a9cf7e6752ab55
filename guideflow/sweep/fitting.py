"""How many images a worker solves together within its memory."""

from collections.abc import Mapping
from pathlib import Path as File
from typing import Any

import torch

from guideflow.gradients import Path
from guideflow.memory import alive_bytes, peak_bytes
from guideflow.problem import Problem, draw_noise
from guideflow.sampler import Sampler
from guideflow.types import LossLike


def images_that_fit(sampler: Sampler, loss: LossLike, solve: Mapping[str, Any], memory: float) -> int:
    """Return how many images fit into so many bytes, weights and process included; at least one.

    images = (memory - in use) / bytes of the gradient of one
    """
    left = memory - used_bytes(sampler.device)
    return max(1, int(left / max(1, image_bytes(sampler, loss, solve["gradient_mode"]))))


def image_bytes(sampler: Sampler, loss: LossLike, mode: str) -> int:
    """Measure what the gradient of one image keeps; costs one evaluation of all steps.

    full: steps + decoder + loss        otherwise: the larger of one step, and of decoder and loss
    """
    with torch.no_grad():
        condition = sampler.condition([""])
    problem = Problem(sampler, loss, draw_noise(sampler, [0]), condition, gradient_mode="full")
    whole, last = mode in ("full", "auto"), problem.z0

    def step() -> torch.Tensor:
        path = Path(problem, problem.z0.detach().requires_grad_(), lambda k, end_point: torch.zeros_like(end_point))
        path.run(sampler.num_steps if whole else 1)
        return problem.evaluate(problem.decode(path.states[-1])).objective if whole else path.states[-1]

    def end() -> torch.Tensor:
        return problem.evaluate(problem.decode(last.detach().requires_grad_())).objective

    if whole:
        return alive_bytes(step)
    with sampler.checkpointing(mode == "checkpointed"):
        return max(alive_bytes(step), alive_bytes(end))


def used_bytes(device: torch.device) -> int:
    """Return the bytes in use now: on a GPU by tensors, otherwise by the process."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    try:
        return int(File("/proc/self/statm").read_text().split()[1]) * 4096
    except (OSError, IndexError, ValueError):
        return peak_bytes(device)
