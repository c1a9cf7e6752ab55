"""A loss that looks for something, a face say, and never finds it has not guided: that is said, and is no success."""

import torch

from guideflow.losses.base import as_sum
from guideflow.losses.detections import DetectionLoss
from guideflow.losses.matching import FOUND
from guideflow.solution import Solution


def lost(solution: Solution) -> str:
    """Say which loss found nothing in any of the images that were kept; empty if each found something."""
    if solution.problem is None:
        return ""
    for term in as_sum(solution.problem.loss).terms:
        if not isinstance(term.loss, DetectionLoss):
            continue
        with torch.no_grad():
            term.loss(solution.images)
        assert term.loss.outcome is not None
        if all(FOUND not in each for each in term.loss.outcome.status):
            where = "any of the pictures" if len(solution.images) > 1 else "the picture"
            return (
                f"The loss {term.name!r} found no {term.loss.seeks} in {where}, so it could not guide. Ask for one in "
                "--prompt, try another --seed, or give the loss a lower floor=."
            )
    return ""
