"""Losses: the algebra of weighted sums, and the checks every loss goes through."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guideflow.errors import InvalidArgument, InvalidImage, InvalidLoss
from guideflow.types import Loss

_RANGE_TOLERANCE = 1e-3


class AbstractLoss(ABC):
    """A loss that can be weighted, added and named: `2 * identity + style.named("waves")`.

    Deriving from this class is optional: any callable from an image batch to one number per image is a loss. Images
    are float32 (float64 if the sampler is), RGB in [0, 1]; a loss must never couple the images of a batch.
    """

    name: str = ""
    """Name of the loss in logs; the class name if empty."""

    @abstractmethod
    def __call__(self, image: Any) -> Any:
        """Return one number per image, lower is better."""

    def describe(self) -> str:
        """Return one line that says what is minimised."""
        return loss_name(self)

    def references(self) -> Sequence[Tensor]:
        """Return the reference pictures to show, each (3, height, width) in [0, 1]; by default none."""
        return ()

    def named(self, name: str) -> "AbstractLoss":
        """Return this loss under another name."""
        return WeightedSum((Term(1.0, self, name),), name=name)

    def __mul__(self, weight: float) -> "WeightedSum":
        """Weight the loss."""
        return as_sum(self).scaled(weight)

    __rmul__ = __mul__

    def __truediv__(self, weight: float) -> "WeightedSum":
        """Divide the loss by a number."""
        return as_sum(self).scaled(1 / weight)

    def __neg__(self) -> "WeightedSum":
        """Turn a loss into a reward."""
        return as_sum(self).scaled(-1.0)

    def __add__(self, other: Loss | int) -> "AbstractLoss":
        """Add another loss, or any callable that is one."""
        if isinstance(other, int) and other == 0:
            return self
        return WeightedSum((*as_sum(self).terms, *as_sum(other).terms))

    def __radd__(self, other: Loss | int) -> "AbstractLoss":
        """Add to a plain callable, or to the 0 that `sum` begins with."""
        if isinstance(other, int) and other == 0:
            return self
        return as_sum(other) + self

    def __sub__(self, other: Loss) -> "AbstractLoss":
        """Subtract another loss."""
        return self + as_sum(other).scaled(-1.0)


@dataclass(frozen=True)
class Term:
    """One entry of a weighted sum."""

    weight: float
    loss: Loss
    name: str


@dataclass(frozen=True)
class WeightedSum(AbstractLoss):
    """A weighted sum of losses; every term is logged, unweighted, under a unique name.

    A term of weight 0 is only logged: it is evaluated without gradient and cannot spoil the sum.
    """

    terms: tuple[Term, ...]
    name: str = ""

    def __post_init__(self) -> None:
        """Make the names unique: identity, identity-2, ..."""
        taken = {"loss", "gradient_norm", "control_norm"}  # columns that every history has
        terms = []
        for term in self.terms:
            name, count = term.name, 1
            while name in taken:
                count += 1
                name = f"{term.name}-{count}"
            taken.add(name)
            terms.append(Term(term.weight, term.loss, name))
        object.__setattr__(self, "terms", tuple(terms))

    def __call__(self, image: Any) -> Tensor:
        """Return the weighted sum."""
        return self.evaluate(image)[0]

    def evaluate(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum and the unweighted value of each term."""
        values: dict[str, Tensor] = {}
        total = image.new_zeros(len(image))
        for term in self.terms:
            with torch.set_grad_enabled(torch.is_grad_enabled() and term.weight != 0):
                values[term.name] = _checked(term.loss, term.name, image)
            if term.weight != 0:
                total = total + term.weight * values[term.name]
        return total, values

    def scaled(self, weight: float) -> "WeightedSum":
        """Return the sum with every weight multiplied."""
        if not isinstance(weight, int | float) or weight != weight or abs(weight) == float("inf"):
            raise InvalidArgument(f"A loss was multiplied by {weight!r}. Expected a finite number, as in `2 * loss`.")
        return WeightedSum(tuple(Term(weight * term.weight, term.loss, term.name) for term in self.terms), self.name)

    def describe(self) -> str:
        """Return the sum as one reads it: `identity + 0.5 * style`."""
        parts = (term.name if term.weight == 1 else f"{term.weight:g} * {term.name}" for term in self.terms)
        return " + ".join(parts).replace("+ -", "- ")

    def references(self) -> Sequence[Tensor]:
        """Return the reference pictures of all terms."""
        found = [ref for term in self.terms if isinstance(term.loss, AbstractLoss) for ref in term.loss.references()]
        return tuple(found)


def loss_name(loss: Loss) -> str:
    """Return the name a loss has in logs: its own, or that of its function or class, in lower case."""
    name = getattr(loss, "name", "") or getattr(loss, "__name__", "") or type(loss).__name__
    if not isinstance(name, str) or name == "<lambda>":
        return "loss-term"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def as_sum(loss: object) -> WeightedSum:
    """Return any loss as a weighted sum, of one term if it is not one yet."""
    if isinstance(loss, WeightedSum):
        return loss
    if not callable(loss):
        raise InvalidLoss(
            f"Got {loss!r} as a loss. Expected a callable from an image batch to one number per image, "
            "for example `gf.load_loss('identity', reference='me.png')`."
        )
    return WeightedSum((Term(1.0, loss, loss_name(loss)),))


def as_loss(loss: Loss, name: str = "") -> WeightedSum:
    """Give any callable the algebra of losses: `0.5 * gf.as_loss(my_function)`."""
    return WeightedSum((Term(1.0, loss, name or loss_name(loss)),), name=name) if name else as_sum(loss)


def evaluate(loss: Loss, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of each image and the unweighted terms by name, or raise `InvalidLoss` with the cure."""
    return as_sum(loss).evaluate(image)


def _checked(loss: Loss, name: str, image: Tensor) -> Tensor:
    value: object = loss(image)
    batch = len(image)
    if not isinstance(value, Tensor):
        raise InvalidLoss(
            f"Loss '{name}' returned a {type(value).__name__}. Expected a tensor of shape ({batch},): "
            "one number per image."
        )
    if value.shape != (batch,):
        cure = (
            "Return one number per image, for example `.flatten(1).mean(1)` instead of `.mean()`."
            if value.dim() == 0
            else "Reduce every dimension but the first, for example with `.flatten(1).mean(1)`."
        )
        raise InvalidLoss(
            f"Loss '{name}' returned shape {tuple(value.shape)} for {batch} images. Expected ({batch},). {cure}"
        )
    if not value.is_floating_point():
        raise InvalidLoss(f"Loss '{name}' returned {value.dtype}. Expected a differentiable floating-point tensor.")
    if torch.is_grad_enabled() and image.requires_grad and not value.requires_grad:
        raise no_gradient(name)
    return value.to(image.dtype)


def no_gradient(name: str) -> InvalidLoss:
    """Return the error for a loss that the images do not reach."""
    return InvalidLoss(
        f"Loss '{name}' has no gradient with respect to the images. Expected a differentiable loss: remove "
        "`.detach()`, `.item()`, `.numpy()` and `torch.no_grad()` from it, or log it only, with `0 * loss`."
    )


def check_image(image: Tensor, *, what: str = "image") -> None:
    """Refuse anything but a batch of RGB pictures in [0, 1]; image losses call this on what they are given.

    Raises:
        InvalidImage: with the shape or range that was given and the cure.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point():
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise InvalidImage(f"Got {what} of type {kind}. Expected a float tensor; for 0..255 integers type `x / 255`.")
    if image.dim() != 4:
        raise InvalidImage(
            f"Got {what} of shape {tuple(image.shape)}. Expected (batch, 3, height, width); "
            "for a single picture type `image[None]`."
        )
    if image.shape[1] != 3:
        cure = "image.permute(0, 3, 1, 2)" if image.shape[3] == 3 else "image[:, :3]"
        cure = "image.expand(-1, 3, -1, -1)" if image.shape[1] == 1 else cure
        raise InvalidImage(
            f"Got {what} with {image.shape[1]} channels, shape {tuple(image.shape)}. Expected 3: type `{cure}`."
        )
    finite = image.detach()[torch.isfinite(image.detach())]
    if finite.numel() and (finite.min() < -_RANGE_TOLERANCE or finite.max() > 1 + _RANGE_TOLERANCE):
        raise InvalidImage(
            f"Got {what} in the range [{finite.min():.3g}, {finite.max():.3g}]. Expected [0, 1]; "
            "for [-1, 1] type `image / 2 + 0.5`, for 0..255 type `image / 255`."
        )
