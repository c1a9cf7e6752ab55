"""Losses of known values, and the gradients of sums of them, for the tests of sums."""

from typing import Any

import torch
from torch import Tensor

from guideflow.losses.base import evaluate
from problems import Distance

IMAGE = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
A = Distance(torch.full((3, 4, 5), 0.25, dtype=torch.float64)).named("a")
B = Distance(torch.full((3, 4, 5), 0.75, dtype=torch.float64)).named("b")


def gradient(loss: Any, image: Tensor = IMAGE, iteration: int | None = None) -> Tensor:
    image = image.clone().requires_grad_()
    (found,) = torch.autograd.grad(evaluate(loss, image, iteration).objective.sum(), image)
    return found


def norm(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values.flatten(1), dim=1)
