"""What an evaluation of a loss returns, how it is checked, and the names of losses in logs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from guideflow.errors import InvalidLoss
from guideflow.types import LossLike, shown

COLUMNS = ("loss", "gradient_norm", "control_norm")
"""What every history has; no term is called so."""

# PyTorch has no class of error for it; the last two are of convolutions.
_CPU, _GPU = r"\(torch\.[A-Z]\w+\)", r"\(torch\.[a-z]+\.\w+\)"
_TWO_DEVICES = re.compile(
    rf"the same device|the expected device|type {_CPU} and weight type {_GPU}|type {_GPU} and weight type {_CPU}"
)


class Evaluation(NamedTuple):
    """What a loss says of a batch of images.

    Attributes:
        loss: What the images are judged by, (B,): with the weights of the end, at every iteration.
        objective: What is differentiated, (B,): with the weights of the iteration.
        terms: Unweighted value of each term, (B,), by name; empty for a loss that is no sum.
    """

    loss: Tensor
    objective: Tensor
    terms: Mapping[str, Tensor]

    def __repr__(self) -> str:
        return f"Evaluation(loss={shown(self.loss)}, objective={shown(self.objective)}, terms={shown(self.terms)})"


def plain(value: Any) -> Evaluation:
    """Return the evaluation of a loss that is neither scheduled nor a sum."""
    return Evaluation(value, value, {})


def checked(found: Evaluation, name: str, images: Tensor) -> Evaluation:
    """Return an evaluation in the dtype of the images, or refuse all but one differentiable number per image."""
    if not isinstance(found, Evaluation) or not isinstance(found.terms, Mapping):
        given = f"terms as a {type(found.terms).__name__}" if isinstance(found, Evaluation) else type(found).__name__
        raise InvalidLoss(
            f"Loss '{name}' returned {given} from `evaluate`. Expected an `Evaluation` of loss, objective and a "
            "mapping of terms, as `super().evaluate(images, iteration)` returns."
        )
    terms = {key: _checked(value, f"{name}', of which '{key}", images) for key, value in found.terms.items()}
    objective = _checked(found.objective, name, images)
    if torch.is_grad_enabled() and images.requires_grad and not objective.requires_grad:
        raise no_gradient(name)
    return Evaluation(_checked(found.loss, name, images), objective, terms)


@contextmanager
def on_one_device(name: str, images: Tensor) -> Iterator[None]:
    """Tell in one line that a loss computes on another device than the images are on."""
    try:
        yield
    except RuntimeError as error:
        if not _TWO_DEVICES.search(str(error)):
            raise
        raise _elsewhere(name, images, "computes on") from error


def _elsewhere(name: str, images: Tensor, what: str) -> InvalidLoss:
    return InvalidLoss(
        f"Loss '{name}' {what} another device than '{images.device}', where the images are. Expected the same: "
        f"load the loss with device='{images.device}', or the sampler with the loss's device."
    )


def _checked(value: object, name: str, images: Tensor) -> Tensor:
    batch = len(images)
    if not isinstance(value, Tensor) or value.shape != (batch,):
        given = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InvalidLoss(
            f"Loss '{name}' returned {given} for {batch} images. Expected ({batch},), a tensor of one number "
            "per image, for example with `.flatten(1).mean(1)`."
        )
    if value.layout is not torch.strided:
        raise InvalidLoss(f"Loss '{name}' returned a sparse tensor. Expected a dense one: `.to_dense()`.")
    if not value.is_floating_point():
        raise InvalidLoss(f"Loss '{name}' returned {value.dtype}. Expected a differentiable floating-point tensor.")
    if value.device != images.device:
        raise _elsewhere(name, images, f"returned numbers on '{value.device}',")
    return value.to(images.dtype)


def no_gradient(name: str) -> InvalidLoss:
    """Return the error for a loss that the images do not reach."""
    return InvalidLoss(
        f"Loss '{name}' has no gradient with respect to the images. Expected a differentiable loss: remove "
        "`.detach()`, `.item()`, `.numpy()` and `torch.no_grad()` from it, or log it only, with `0 * loss`."
    )


def loss_name(loss: LossLike) -> str:
    """Return the name a loss has in logs: its own, or that of its function or class, in lower case."""
    loss = before_compiling(loss)
    name = getattr(loss, "name", "") or getattr(loss, "__name__", "") or type(loss).__name__
    if not isinstance(name, str) or name == "<lambda>":
        return "loss-term"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def before_compiling(loss: Any) -> Any:
    """Return what `torch.compile` was given to make a loss; any other loss as it is."""
    if (module := getattr(loss, "_orig_mod", None)) is not None:
        return module
    return inspect.unwrap(loss) if hasattr(loss, "_torchdynamo_orig_callable") else loss


def unique(name: str, taken: Collection[str]) -> str:
    """Return a name that is not taken: `style`, `style-2`, ..."""
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}-{count}"
    return found
