"""One row of the history of a solve."""

import torch
from torch import Tensor

from guideflow.solvers import State


def measure(state: State) -> dict[str, Tensor]:
    """Return loss, loss terms and norms of a state, one number per image each."""
    rollout = state.rollout
    gradients = torch.zeros_like(rollout.states) if rollout.gradients is None else rollout.gradients
    norms = {"gradient_norm": _norm(gradients), "control_norm": _norm(state.controls)}
    return {"loss": rollout.loss, **rollout.terms, **norms}


def _norm(values: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values.transpose(0, 1).flatten(1), dim=1)
    return norm
