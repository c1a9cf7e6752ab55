"""Losses: the algebra of weighted sums, and what an evaluation of one returns."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, final

import torch
from torch import Tensor

from guideflow._given import in_range, plain_number
from guideflow._process import InOwnState
from guideflow._told import said
from guideflow.errors import InvalidLoss
from guideflow.losses.evaluation import (
    COLUMNS,
    Evaluation,
    before_compiling,
    checked,
    loss_name,
    on_one_device,
    plain,
    unique,
)
from guideflow.losses.schedules import Ramp
from guideflow.pickling import state_of
from guideflow.types import LossLike, intact


class Loss(InOwnState, ABC):
    """A loss that can be weighted, added and named: `2 * identity + style.named("waves")`.

    Deriving from this class is optional: any callable from an image batch to one number per image is a loss. Images
    are float32 (float64 if the sampler is), RGB in [0, 1]; a loss must never couple the images of a batch.
    """

    name: str = ""
    """Name of the loss in logs; the class name if empty."""

    shows_face: bool = False
    """Whether it pulls images towards a face, so that saved pictures are marked as generated."""

    _references: Sequence[Tensor] = ()
    __getstate__ = state_of
    __array_ufunc__ = None  # a number of numpy's before the * leaves the product to this class

    @abstractmethod
    def __call__(self, image: Any) -> Any:
        """Return one number per image, lower is better."""

    def describe(self) -> str:
        """Return one line that says what is minimised."""
        return loss_name(self)

    def __repr__(self) -> str:
        try:
            pictures = len(self.references())
            about = f", {pictures} reference picture{'s' * (pictures != 1)}" if pictures else ""
            return f"{type(self).__name__}({self.describe()}{about})"
        except Exception:  # of one that is half made
            return object.__repr__(self)

    def references(self) -> Sequence[Tensor]:
        """Return the reference images, (3, height, width) in [0, 1]; saved, and given as `reference` on resuming."""
        return self._references

    def evaluate(self, images: Tensor, iteration: int | None = None) -> Evaluation:
        """Return what judges and what guides the images at an iteration; None for the end.

        Called on its own, a loss is what it comes to in the end. One that changes over the iterations in a way of its
        own overrides this, and `settled`.
        """
        return plain(self(images))

    @property
    def settled(self) -> int:
        """First iteration from which the objective is that of the end."""
        return 0

    @property
    def lasting(self) -> bool:
        """Whether something is left of the loss in the end."""
        return True

    def named(self, name: str) -> Loss:
        """Return this loss under another name."""
        return WeightedSum((Term(1.0, self, name),), name=name)

    def scheduled(
        self,
        *,
        start: int = 0,
        end: int | None = None,
        fade_in: int = 0,
        fade_out: int = 0,
        before: float = 0.0,
        after: float = 0.0,
    ) -> WeightedSum:
        """Return this loss switched on and off over the iterations, at once or gradually.

            colour.scheduled(end=20)                           the first 20 updates only
            style.scheduled(start=10, fade_in=5)               then on, first with 1/6, 2/6, ... of its weight
            layout.scheduled(end=30, fade_out=30, after=0.1)   ever less

        The weight at iteration i decides the update from iteration i to i + 1. Only the gradient is scheduled: the
        reported loss has the weights of the end at every iteration, so that values can be compared, and `keep="best"`,
        `target_loss` and `patience` mean the same throughout (patience counts from when the weights have settled).
        A term that is off is evaluated without gradient, for the history. Of a sum every term is scheduled; schedules
        of schedules multiply.

        Arguments:
            start: First iteration on which it is on.
            end: First iteration on which it is off again; None for never.
            fade_in: Number of iterations, from `start` on, that are on the way to the full weight.
            fade_out: Number of iterations, up to `end`, that are on the way from it.
            before: Share of the weight until `start`.
            after: Share of the weight from `end` on, and so in what the solve is judged by.

        Returns:
            The scheduled loss, to be added to others. What is left in the end must not be nothing.

        Raises:
            InvalidArgument: If a value is out of range, or there is no room for the fades.
        """
        ramp, whole = Ramp(start, end, fade_in, fade_out, before, after), as_sum(self)
        return replace(whole, terms=tuple(replace(term, ramps=(*term.ramps, ramp)) for term in whole.terms))

    def __mul__(self, weight: float) -> WeightedSum:
        return as_sum(self).scaled(weight)

    __rmul__ = __mul__

    def __truediv__(self, weight: float) -> WeightedSum:
        in_range("what a loss is divided by", plain_number(weight))
        return as_sum(self).scaled(1 / weight if weight else math.inf)

    def __neg__(self) -> WeightedSum:
        return as_sum(self).scaled(-1.0)

    def __add__(self, other: LossLike | int) -> Loss:
        begins_sum = isinstance(other, int) and other == 0  # as `sum` does
        return self if begins_sum else WeightedSum((*as_sum(self).terms, *as_sum(other).terms))

    def __radd__(self, other: LossLike | int) -> Loss:
        return self if isinstance(other, int) and other == 0 else as_sum(other) + self

    def __sub__(self, other: LossLike) -> Loss:
        return self + as_sum(other).scaled(-1.0)


@dataclass(frozen=True)
class Term:
    """One entry of a weighted sum; its weight at an iteration is `weight` times the product of its ramps."""

    weight: float
    loss: LossLike
    name: str
    ramps: tuple[Ramp, ...] = ()

    def __post_init__(self) -> None:
        in_range("the weight of a loss", plain_number(self.weight))
        _check_loss(self.loss)
        _check_name(self.name)
        if not isinstance(self.ramps, tuple | list) or not all(isinstance(one, Ramp) for one in self.ramps):
            raise InvalidLoss(f"Got ramps={said(self.ramps)}. Expected a tuple of `Ramp`, as `loss.scheduled` makes.")

    def weight_at(self, iteration: int | None) -> float:
        """Return the weight at an iteration, or in the end."""
        return self.weight * prod(ramp.final if iteration is None else ramp(iteration) for ramp in self.ramps)

    def evaluate(self, images: Tensor, iteration: int | None) -> Evaluation:
        """Evaluate the loss and check what it returns; of weight 0, without gradient."""
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and self.weight_at(iteration) != 0),
            intact(images, f"Loss '{self.name}'", InvalidLoss),
            on_one_device(self.name, images),
        ):
            found = self.loss.evaluate(images, iteration) if isinstance(self.loss, Loss) else plain(self.loss(images))
            return checked(found, self.name, images)

    def references(self) -> Sequence[Tensor]:
        """Return the reference images of the loss, or refuse what cannot be saved in the end."""
        found = self.loss.references() if isinstance(self.loss, Loss) else ()
        if isinstance(found, tuple | list) and all(isinstance(one, Tensor) and one.dim() in (3, 4) for one in found):
            return found
        raise InvalidLoss(
            f"Loss '{self.name}' returned {said(found)} from `references`. Expected a tuple of pictures, tensors (3, "
            "height, width) in [0, 1]; `()` for none."
        )

    def describe(self) -> str:
        """Return the term as one reads it: `0.5 * style (from 10)`."""
        name = " ".join((self.name, *map(str, self.ramps)))
        return name if self.weight == 1 else f"{self.weight:g} * {name}"


@final
@dataclass(frozen=True, repr=False)
class WeightedSum(Loss):
    """A weighted sum of losses; every term is logged, unweighted, under a unique name.

    A term of weight 0 is only logged: it is evaluated without gradient and cannot spoil the sum.

    Arguments:
        terms: What is added.
        name: Name of the sum as a term of another one.
    """

    terms: tuple[Term, ...]
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.terms, tuple | list) or not all(isinstance(one, Term) for one in self.terms):
            raise InvalidLoss(f"Got terms={said(self.terms)}. Expected a tuple of `Term`; losses are added by `a + b`.")
        _check_name(self.name)
        taken, terms = list(COLUMNS), []
        for term in self.terms:
            taken.append(unique(term.name, taken))
            terms.append(replace(term, name=taken[-1]))
        object.__setattr__(self, "terms", tuple(terms))

    def __call__(self, image: Any) -> Tensor:
        """Return the sum, with the weights of the end."""
        return self.evaluate(image).loss

    def evaluate(self, images: Tensor, iteration: int | None = None) -> Evaluation:
        """Return the weighted sums and the unweighted value of each term, those of nested sums included."""
        return self.add([term.evaluate(images, iteration) for term in self.terms], images, iteration)

    def add(self, parts: Sequence[Evaluation], images: Tensor, iteration: int | None) -> Evaluation:
        """Add up the evaluations of the terms."""
        loss = objective = images.new_zeros(len(images))
        for term, part in zip(self.terms, parts, strict=True):
            if finally_ := term.weight_at(None):
                loss = loss + finally_ * part.loss
            if now := term.weight_at(iteration):
                objective = objective + now * part.objective
        if self.settled and torch.is_grad_enabled() and images.requires_grad and not objective.requires_grad:
            objective = 0 * images.flatten(1).sum(1)  # while nothing is on
        values, taken = dict[str, Tensor](), [*COLUMNS, *(term.name for term in self.terms)]
        for term, part in zip(self.terms, parts, strict=True):
            values[term.name] = part.loss
            for name, inner in part.terms.items():
                taken.append(unique(name, taken))
                values[taken[-1]] = inner
        return Evaluation(loss, objective, values)

    def weights(self, iteration: int | None = None) -> dict[str, float]:
        """Return the weight of each term at an iteration, or in the end."""
        return {term.name: term.weight_at(iteration) for term in self.terms}

    @property
    def settled(self) -> int:
        """First iteration from which every weight is what it stays."""
        inner = (term.loss.settled for term in self.terms if isinstance(term.loss, Loss))
        return max((0, *inner, *(ramp.settled for term in self.terms for ramp in term.ramps)))

    @property
    def lasting(self) -> bool:
        """Whether some term has a weight in the end."""
        return any(term.weight_at(None) and getattr(term.loss, "lasting", True) for term in self.terms)

    def scaled(self, weight: float) -> WeightedSum:
        """Return the sum with every weight multiplied."""
        in_range("the weight of a loss", weight)
        return replace(self, terms=tuple(replace(term, weight=float(weight) * term.weight) for term in self.terms))

    def describe(self) -> str:
        """Return the sum as one reads it: `identity + 0.5 * style`."""
        return " + ".join(term.describe() for term in self.terms).replace("+ -", "- ")

    def references(self) -> Sequence[Tensor]:
        """Return the reference images of all terms."""
        return tuple(ref for term in self.terms for ref in term.references())


class _Compiled(Loss):
    """What `torch.compile` makes of a loss, a mere function, with what the loss says of itself."""

    def __init__(self, function: Callable[[Tensor], Any], of: Loss):
        if type(of).evaluate is not Loss.evaluate:
            raise InvalidLoss(
                f"Got torch.compile({of!r}), which has lost the terms and the schedule. Compile each loss of the sum."
            )
        self.name, self.shows_face, self._function, self._of = loss_name(of), of.shows_face, function, of

    def __call__(self, image: Any) -> Any:
        return self._function(image)

    def references(self) -> Sequence[Tensor]:
        return self._of.references()


def evaluate(loss: LossLike, images: Tensor, iteration: int | None = None) -> Evaluation:
    """Evaluate any loss at an iteration, None for the end, or raise `InvalidLoss` with the cure."""
    return as_sum(loss).evaluate(images, iteration)


def as_loss(loss: LossLike, name: str = "") -> WeightedSum:
    """Give any callable the algebra of losses: `0.5 * gf.as_loss(my_function)`."""
    _check_name(name)
    return WeightedSum((Term(1.0, loss, name),), name) if name else as_sum(loss)


def _check_loss(loss: object) -> None:
    if not callable(loss) or isinstance(loss, type):
        raise InvalidLoss(
            f"Got {said(loss)} as a loss. Expected a callable from images to a number each: `gf.load_loss`."
        )


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise InvalidLoss(f"Got {said(name)} as the name of a loss. Expected a text.")


def as_sum(loss: Any) -> WeightedSum:
    """Return any loss as a weighted sum, of one term if it is not one yet."""
    if isinstance(loss, WeightedSum):
        return loss
    _check_loss(loss)
    of = before_compiling(loss)
    if of is not loss and isinstance(of, Loss):
        loss = _Compiled(loss, of)
    return WeightedSum((Term(1.0, loss, loss_name(loss)),))
