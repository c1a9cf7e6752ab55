"""A problem seen through previews, by those who look often and show nothing; and the full look after them."""

from dataclasses import fields, replace
from typing import final

import torch

from guideflow._process import own_state
from guideflow.problem import Problem, Rollout
from guideflow.types import Latent


@final
class Previewing(Problem):
    """The same problem, whose pictures are what the sampler previews; its own, where it has no small decoder."""

    @classmethod
    def of(cls, problem: Problem) -> "Previewing":
        """Return the problem seen so."""
        return cls(**{field.name: getattr(problem, field.name) for field in fields(problem)})

    def decode(self, z: Latent) -> torch.Tensor:
        """Preview."""
        return self.preview(z)


@own_state()
@torch.no_grad()
def judged(problem: Problem, rollout: Rollout) -> Rollout:
    """Return a rollout with its last state decoded and judged by a problem, whose gradients stay what they are."""
    images = problem.decode(rollout.states[-1])
    loss, objective, terms = problem.evaluate(images)
    return replace(rollout, images=images, loss=loss, objective=objective, terms=terms)
