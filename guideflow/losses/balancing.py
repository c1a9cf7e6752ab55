"""Losses made of others: terms that come and go over the iterations, and terms of equal pull."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from guideflow.errors import InvalidArgument
from guideflow.losses.base import Group, WeightedSum, as_sum, no_gradient
from guideflow.losses.schedules import Timing
from guideflow.types import LossLike


def schedule(
    loss: LossLike,
    *,
    start: int = 0,
    end: int | None = None,
    fade_in: int = 0,
    fade_out: int = 0,
    before: float = 0.0,
    after: float = 0.0,
) -> WeightedSum:
    """Switch a loss on and off over the iterations, at once or gradually.

        gf.schedule(colour, end=20)                          the first 20 updates only
        gf.schedule(style, start=10, fade_in=5)              from then on, with 1/6, 2/6, ... of its weight at first
        gf.schedule(layout, end=30, fade_out=30, after=0.1)  ever less

    The weight at iteration i decides the update from iteration i to i + 1. Only the gradient is scheduled: the reported
    loss has the weights of the end at every iteration, so that values can be compared, and `keep="best"`,
    `target_loss` and `patience` mean the same throughout (patience counts from when the weights have settled).
    A term that is off is evaluated without gradient, for the history. Schedules of schedules multiply.

    Arguments:
        loss: a loss or a sum, whose every term is then scheduled.
        start: first iteration on which it is on.
        end: first iteration on which it is off again; None for never.
        fade_in: number of iterations, from `start` on, that are on the way to the full weight.
        fade_out: number of iterations, up to `end`, that are on the way from it.
        before: share of the weight until `start`.
        after: share of the weight from `end` on, and so in what the solve is judged by.

    Returns:
        The scheduled loss, to be added to others. What is left in the end must not be nothing.

    Raises:
        InvalidArgument: if a value is out of range, or there is no room for the fades.
    """
    timing = Timing(start, end, fade_in, fade_out, before, after)
    whole = as_sum(loss)
    return replace(whole, terms=tuple(replace(term, timings=(*term.timings, timing)) for term in whole.terms))


@final
@dataclass(frozen=True)
class Balanced(Group):
    """A sum whose terms pull equally hard on every image; made by `balanced`.

        dL/dx = c sum_j w_j g_j / norm(g_j),    g_j = dL_j/dx,    c = sum_j |w_j| norm(g_j) / sum_j |w_j|

    Arguments:
        sum: the terms and their shares.
        limit: no term is made more than so many times stronger.
        name: name as a term of a sum.
    """

    sum: WeightedSum
    limit: float = 1000.0
    name: str = "balanced"

    def __post_init__(self) -> None:
        """Validate."""
        if len(self.sum.terms) < 2:
            raise InvalidArgument(
                f"Got {self.sum.describe()!r} to balance. Expected at least two terms: `gf.balanced(a, 2 * b)`."
            )
        if isinstance(self.limit, bool) or not isinstance(self.limit, int | float) or not self.limit >= 1:
            raise InvalidArgument(f"Got limit = {self.limit!r}. Expected a number of at least 1.")

    def evaluate(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the plain sum, with the balanced gradient, and the value of each term."""
        if not (torch.is_grad_enabled() and image.requires_grad):
            return self.sum.evaluate(image)
        x = image.detach().requires_grad_()
        total, values = self.sum.evaluate(x)
        weights = {name: weight for name, weight in self.sum.weights(self.sum.iteration).items() if weight != 0}
        pulls = {name: _gradient(values[name], x, name) for name in weights}
        norms = {name: torch.linalg.vector_norm(pull.flatten(1), dim=1) for name, pull in pulls.items()}
        share = sum(abs(weight) for weight in weights.values()) or 1.0
        common = sum((abs(weights[name]) * norms[name] for name in weights), x.new_zeros(len(x))) / share
        gradient = torch.zeros_like(x)
        for name, weight in weights.items():
            factor = (common / norms[name].clamp(min=torch.finfo(x.dtype).tiny)).clamp(max=self.limit)
            gradient = gradient + weight * factor.view(-1, *[1] * (x.dim() - 1)) * pulls[name]
        # A linear function of the image with exactly this gradient, worth exactly the sum.
        linear = (gradient * (image - image.detach())).flatten(1).sum(1)
        return total.detach() + linear, {name: value.detach() for name, value in values.items()}

    def at(self, iteration: int) -> "Balanced":
        """Return the loss with the weights of an iteration in its gradient."""
        inner = self.sum.at(iteration)
        return self if inner is self.sum else replace(self, sum=inner)

    @property
    def settled(self) -> int:
        """First iteration from which every weight is what it stays."""
        return self.sum.settled

    @property
    def lasting(self) -> bool:
        """Whether some term has a weight in the end."""
        return self.sum.lasting

    def describe(self) -> str:
        """Return the terms in brackets."""
        return f"balanced({self.sum.describe()})"

    def references(self) -> Sequence[Tensor]:
        """Return the reference pictures of all terms."""
        return self.sum.references()


def balanced(*losses: LossLike, limit: float = 1000.0) -> Balanced:
    """Add losses so that none drowns another: each term's gradient at the image is brought to the same norm.

        dL/dx = c sum_j w_j g_j / norm(g_j),    g_j = dL_j/dx,    c = sum_j |w_j| norm(g_j) / sum_j |w_j|

    Weights become shares of the pull: in `gf.balanced(identity, 0.5 * style)` identity pulls twice as hard as style,
    whatever their units. Norms are taken for each image by itself. c is the mean norm, so that terms which are equal
    already stay as they are, and the pull fades as all of them are met. Values, reported and compared, are those of the
    plain sum. The cost is one backward pass through each loss, as for a sum, and one through the sampler.

    Arguments:
        losses: two or more losses, or one sum.
        limit: no term is made more than so many times stronger, so that one that is met does not fill the image with
            its noise.

    Returns:
        The loss, to be used alone or as a term.

    Raises:
        InvalidArgument: if there are fewer than two terms, or the limit is below 1.

    Source: Esser et al., Taming Transformers (CVPR 2021), Eq. 7, which balances two losses by the norms of their
    gradients; Chen et al., GradNorm (ICML 2018), for the idea. Here norms are taken at the image, not at a layer.
    Not for terms that are to fade when they are met: their gradients are enlarged then. Weigh those by hand.
    """
    whole = WeightedSum(tuple(term for loss in losses for term in as_sum(loss).terms))
    return Balanced(whole, limit)


def _gradient(value: Tensor, x: Tensor, name: str) -> Tensor:
    (found,) = torch.autograd.grad(value.sum(), x, retain_graph=True, allow_unused=True)
    if found is None:
        raise no_gradient(name)
    return found
