"""Losses: the algebra of weighted sums, and the checks every loss goes through."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from guideflow.errors import InvalidArgument, InvalidLoss
from guideflow.losses.schedules import Timing
from guideflow.types import LossLike

_COLUMNS = ("loss", "gradient_norm", "control_norm")  # that every history has


class Loss(ABC):
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

    def at(self, iteration: int) -> "Loss":
        """Return the loss that guides an iteration; itself, unless it is scheduled.

        Called on its own, a loss is what it comes to in the end. A solve is judged by that at every iteration: it is
        the reported loss, and what `keep="best"`, `target_loss` and `patience` compare. `at` decides the gradient.
        """
        return self

    @property
    def settled(self) -> int:
        """First iteration from which `at` no longer changes anything."""
        return 0

    def named(self, name: str) -> "Loss":
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

    def __add__(self, other: LossLike | int) -> "Loss":
        """Add another loss, or any callable that is one."""
        if isinstance(other, int) and other == 0:
            return self
        return WeightedSum((*as_sum(self).terms, *as_sum(other).terms))

    def __radd__(self, other: LossLike | int) -> "Loss":
        """Add to a plain callable, or to the 0 that `sum` begins with."""
        if isinstance(other, int) and other == 0:
            return self
        return as_sum(other) + self

    def __sub__(self, other: LossLike) -> "Loss":
        """Subtract another loss."""
        return self + as_sum(other).scaled(-1.0)


class Group(Loss):
    """A loss made of several, which are logged too."""

    @property
    @abstractmethod
    def lasting(self) -> bool:
        """Whether some term has a weight in the end."""

    @abstractmethod
    def evaluate(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the unweighted value of each term."""

    def __call__(self, image: Any) -> Tensor:
        """Return the loss."""
        return self.evaluate(image)[0]


@dataclass(frozen=True)
class Term:
    """One entry of a weighted sum; its weight at an iteration is `weight` times the product of its timings."""

    weight: float
    loss: LossLike
    name: str
    timings: tuple[Timing, ...] = ()

    def weight_at(self, iteration: int | None) -> float:
        """Return the weight at an iteration, or in the end."""
        return self.weight * prod(time.final if iteration is None else time(iteration) for time in self.timings)

    def describe(self) -> str:
        """Return the term as one reads it: `0.5 * style (from 10)`."""
        name = " ".join((self.name, *map(str, self.timings)))
        return name if self.weight == 1 else f"{self.weight:g} * {name}"


@dataclass(frozen=True)
class WeightedSum(Group):
    """A weighted sum of losses; every term is logged, unweighted, under a unique name.

    A term of weight 0 is only logged: it is evaluated without gradient and cannot spoil the sum.

    Arguments:
        terms: what is added.
        name: name of the sum as a term of another one.
        iteration: the iteration whose weights the gradient has; None for those of the end, which the value always has.
    """

    terms: tuple[Term, ...]
    name: str = ""
    iteration: int | None = None

    def __post_init__(self) -> None:
        """Make the names unique: identity, identity-2, ..."""
        taken, terms = list(_COLUMNS), []
        for term in self.terms:
            taken.append(_unique(term.name, taken))
            terms.append(replace(term, name=taken[-1]))
        object.__setattr__(self, "terms", tuple(terms))

    def evaluate(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum and the unweighted value of each term, those of nested sums included."""
        values: dict[str, Tensor] = {}
        taken = [*_COLUMNS, *(term.name for term in self.terms)]
        total = judged = image.new_zeros(len(image))
        for term in self.terms:
            now, finally_ = term.weight_at(self.iteration), term.weight_at(None)
            with torch.set_grad_enabled(torch.is_grad_enabled() and now != 0):
                value, inside = _checked(term.loss, term.name, image)
            values[term.name] = value
            for name, inner in inside.items():
                taken.append(_unique(name, taken))
                values[taken[-1]] = inner
            if now != 0:
                total = total + now * value
            if finally_ != 0:
                judged = judged + finally_ * value.detach()
        if all(term.weight_at(self.iteration) == term.weight_at(None) for term in self.terms):
            return total, values
        # The value is what a solve is judged by at every iteration; the gradient is that of this iteration's weights.
        if not total.requires_grad and image.requires_grad and torch.is_grad_enabled():
            total = 0 * image.flatten(1).sum(1)
        return judged + (total - total.detach()), values

    def weights(self, iteration: int | None = None) -> dict[str, float]:
        """Return the weight of each term at an iteration, or in the end."""
        return {term.name: term.weight_at(iteration) for term in self.terms}

    def at(self, iteration: int) -> "WeightedSum":
        """Return the sum with the weights of an iteration in its gradient."""
        losses = [term.loss.at(iteration) if isinstance(term.loss, Loss) else term.loss for term in self.terms]
        terms = tuple(replace(term, loss=loss) for term, loss in zip(self.terms, losses, strict=True))
        same = all(one.loss is other.loss and not one.timings for one, other in zip(terms, self.terms, strict=True))
        return self if same else replace(self, terms=terms, iteration=iteration)

    @property
    def lasting(self) -> bool:
        """Whether some term has a weight in the end."""
        return any(
            term.weight_at(None) != 0 and (not isinstance(term.loss, Group) or term.loss.lasting) for term in self.terms
        )

    @property
    def settled(self) -> int:
        """First iteration from which every weight is what it stays."""
        inner = (term.loss.settled for term in self.terms if isinstance(term.loss, Loss))
        return max((0, *inner, *(time.settled for term in self.terms for time in term.timings)))

    def scaled(self, weight: float) -> "WeightedSum":
        """Return the sum with every weight multiplied."""
        if not isinstance(weight, int | float) or weight != weight or abs(weight) == float("inf"):
            raise InvalidArgument(f"A loss was multiplied by {weight!r}. Expected a finite number, as in `2 * loss`.")
        return replace(self, terms=tuple(replace(term, weight=weight * term.weight) for term in self.terms))

    def describe(self) -> str:
        """Return the sum as one reads it: `identity + 0.5 * style`."""
        return " + ".join(term.describe() for term in self.terms).replace("+ -", "- ")

    def references(self) -> Sequence[Tensor]:
        """Return the reference pictures of all terms."""
        found = [ref for term in self.terms if isinstance(term.loss, Loss) for ref in term.loss.references()]
        return tuple(found)


def loss_name(loss: LossLike) -> str:
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


def as_loss(loss: LossLike, name: str = "") -> WeightedSum:
    """Give any callable the algebra of losses: `0.5 * gf.as_loss(my_function)`."""
    return WeightedSum((Term(1.0, loss, name or loss_name(loss)),), name=name) if name else as_sum(loss)


def evaluate(loss: LossLike, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of each image and the unweighted terms by name, or raise `InvalidLoss` with the cure."""
    return as_sum(loss).evaluate(image)


def _unique(name: str, taken: Collection[str]) -> str:
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}-{count}"
    return found


def _checked(loss: LossLike, name: str, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    value, inside = loss.evaluate(image) if isinstance(loss, Group) else (loss(image), {})
    return _checked_value(value, name, image), inside


def require_lasting(loss: WeightedSum) -> None:
    """Refuse a schedule that ends with nothing to compare iterates by."""
    if loss.settled and not loss.lasting:
        raise InvalidLoss(
            f"Nothing is left of the loss '{loss.describe()}' in the end, so its iterates cannot be compared. Add a "
            "loss that stays, or keep a share of this one: `gf.schedule(loss, end=30, after=0.1)`."
        )


def _checked_value(value: object, name: str, image: Tensor) -> Tensor:
    """Return what a loss returned, in the dtype of the images, or refuse all but one differentiable number per image.

    Raises:
        InvalidLoss: with the name of the loss, what it returned and the cure.
    """
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
