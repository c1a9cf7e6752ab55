"""Whether a loss that is given on resuming is the one that the solve was made with: told before the work."""

import warnings

import torch
from torch import Tensor

from guideflow.errors import CannotResume
from guideflow.losses.base import as_sum
from guideflow.losses.detections import DetectionLoss
from guideflow.losses.matching import FOUND
from guideflow.solution import Solution
from guideflow.storage.recipes import code, digest, loss_config, plugins, typed_losses
from guideflow.types import LossLike

_TOLERANCE = 0.02
"""Share of the largest loss of the run: more than another device or dtype makes of the same loss."""


def check_same_loss(saved: Solution, loss: LossLike) -> None:
    """Refuse a loss that has other terms than the saved one, or another value for the saved images."""
    rollout, scale = saved.state.rollout, saved.history["loss"].nan_to_num(0, 0, 0).abs().max().item()
    with torch.no_grad():
        found = as_sum(loss).evaluate(rollout.images, saved.state.iteration)
    if {*found.terms} != {*rollout.terms}:
        before = [name for name in saved.history if name in rollout.terms]  # in order, as files have them sorted
        raise _another(saved, f"it has the terms {_listed(found.terms)} instead of {_listed(before)}")
    off = (found.loss - rollout.loss).abs() > _TOLERANCE * scale
    off &= torch.isfinite(rollout.loss) & _seen(loss, len(off)).to(off.device)
    for i in off.nonzero()[:1, 0].tolist():
        now, then = found.loss[i].item(), rollout.loss[i].item()
        raise _another(saved, f"it is {now:.4g} for image {i}, which had {then:.4g}")
    files = saved.configs.get("files") or {}
    for name in filter(None, map(code, plugins(loss_config(loss)))):
        if name in files and digest(name) != files[name]:
            warnings.warn(
                f"{name} is another file than the one that the solve was made with, and the loss in it about the same "
                "for the saved images. The solve goes on with it.",
                stacklevel=4,
            )


def _seen(loss: LossLike, images: int) -> Tensor:
    """Tell in which images everything is found: elsewhere a loss goes by what it remembers of earlier ones."""
    seen = torch.ones(images, dtype=torch.bool)
    for term in as_sum(loss).terms:
        if isinstance(term.loss, DetectionLoss) and term.loss.outcome is not None:
            seen &= torch.tensor([{*each} <= {FOUND} for each in term.loss.outcome.status])
    return seen


def _listed(names: object) -> str:
    return ", ".join(map(str, names)) or "none"  # type: ignore[call-overload]


def _another(saved: Solution, why: str) -> CannotResume:
    before = f"The loss given is not the one that the solution was made with: {why}."
    again = typed_losses(saved.configs["loss"])
    error = CannotResume(f"{before} Give that one: `gf.resume(..., loss=loss)`.")
    return error.as_typed(f"{before} Give that one{f': {again}' if again else ''}.")
