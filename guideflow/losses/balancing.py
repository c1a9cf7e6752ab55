"""Sums of losses whose terms pull equally hard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from guideflow._given import in_range
from guideflow._told import said
from guideflow.errors import InvalidArgument
from guideflow.losses.base import Loss, Term, WeightedSum, as_sum
from guideflow.losses.evaluation import Evaluation, no_gradient
from guideflow.types import LossLike


@final
@dataclass(frozen=True, repr=False)
class Balanced(Loss):
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
        if not isinstance(self.sum, WeightedSum):
            raise InvalidArgument(f"Got {said(self.sum)} to balance. Expected losses: `gf.balanced(a, 2 * b)`.")
        if len(self.sum.terms) < 2:
            raise InvalidArgument(
                f"Got {self.sum.describe()!r} to balance. Expected at least two terms: `gf.balanced(a, 2 * b)`."
            )
        in_range("limit", self.limit, 1)

    def __call__(self, image: Any) -> Tensor:
        """Return the plain sum, with the balanced gradient."""
        return self.evaluate(image).loss

    def evaluate(self, images: Tensor, iteration: int | None = None) -> Evaluation:
        """Return the plain sum and, as objective, the sum with its factors, each with the balanced gradient."""
        if not (torch.is_grad_enabled() and images.requires_grad):
            return self.sum.evaluate(images, iteration)
        x = images.detach().requires_grad_()
        parts = [term.evaluate(x, iteration) for term in self.sum.terms]
        found, weights = self.sum.add(parts, x, iteration), self.sum.weights(iteration)
        on = [(w, part.objective, name) for (name, w), part in zip(weights.items(), parts, strict=True) if w != 0]
        pulls = [_gradient(value, x, name) for _, value, name in on]
        norms = [torch.linalg.vector_norm(pull.flatten(1), dim=1) for pull in pulls]
        whole = sum((abs(w) * norm for (w, *_), norm in zip(on, norms, strict=True)), x.new_zeros(len(x)))
        common = whole / (sum(abs(w) for w, *_ in on) or 1.0)
        objective, gradient = x.new_zeros(len(x)), torch.zeros_like(x)
        for (weight, value, _), pull, norm in zip(on, pulls, norms, strict=True):
            factor = (common / norm.clamp(min=torch.finfo(x.dtype).tiny)).clamp(max=self.limit)
            objective = objective + weight * factor * value.detach()
            gradient = gradient + weight * factor.view(-1, *[1] * (x.dim() - 1)) * pull
        # A linear function of the images with exactly this gradient, worth nothing here.
        linear = (gradient * (images - images.detach())).flatten(1).sum(1)
        terms = {name: value.detach() for name, value in found.terms.items()}
        return Evaluation(found.loss.detach() + linear, objective + linear, terms)

    @property
    def inside(self) -> Sequence[Term]:
        """The terms."""
        return self.sum.terms

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
        """Return the reference images of all terms."""
        return self.sum.references()


def balanced(*losses: LossLike, limit: float = 1000.0) -> Balanced:
    """Add losses so that none drowns another: each term's gradient at the image is brought to the same norm.

        dL/dx = c sum_j w_j g_j / norm(g_j),    g_j = dL_j/dx,    c = sum_j |w_j| norm(g_j) / sum_j |w_j|

    Weights become shares of the pull: in `gf.balanced(identity, 0.5 * style)` identity pulls twice as hard as style,
    whatever their units. Norms are taken for each image by itself. c is the mean norm, so that terms which are equal
    already stay as they are, and the pull fades as all of them are met. Values, reported and compared, are those of the
    plain sum; a solver that weighs steps by what it differentiates sees c sum_j w_j L_j / norm(g_j). The cost is one
    backward pass through each loss, as for a sum, and one through the sampler.

    Arguments:
        losses: two or more losses, or one sum.
        limit: no term is made more than so many times stronger, so that one that is met does not fill the image with
            its noise.

    Returns:
        The loss, to be used alone or as a term.

    Raises:
        InvalidArgument: if there are fewer than two terms, or the limit is below 1.

    Source: Esser et al., Taming Transformers (CVPR 2021), Eq. (7), which balances two losses by the norms of their
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
