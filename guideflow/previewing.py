"""A problem seen through previews, by those who look often and show nothing; and the full look after them."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import final

import torch
from torch import Tensor

from guideflow._process import own_state
from guideflow.problem import Problem, Rollout
from guideflow.types import Latent, PerImage


@final
class Previewing(Problem):
    """The same problem, whose pictures are what the sampler previews; its own, where it has no small decoder."""

    @classmethod
    def of(cls, problem: Problem) -> "Previewing":
        """Return the problem seen so."""
        return cls(**{field.name: getattr(problem, field.name) for field in fields(problem)})

    def decode(self, z: Latent) -> Tensor:
        """Preview."""
        return self.preview(z)


def judged(problem: Problem, rollout: Rollout) -> Rollout:
    """Return a rollout with its last state decoded and judged by a problem, whose gradients stay what they are."""
    images, loss, objective, terms = looked(problem, rollout.states[-1])
    return replace(rollout, images=images, loss=loss, objective=objective, terms=terms)


@own_state()
@torch.no_grad()
def looked(problem: Problem, z: Latent) -> tuple[Tensor, PerImage, PerImage, Mapping[str, Tensor]]:
    """Return finished latents decoded, and of these pictures loss, objective and terms."""
    images = problem.decode(z)
    return images, *problem.evaluate(images)
