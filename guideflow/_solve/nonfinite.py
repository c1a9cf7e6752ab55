"""Why images could not be guided, and what to try: asked of the parts of a solve, which are still there."""

from __future__ import annotations

import torch

from guideflow._process import own_state
from guideflow.losses.base import Term, as_sum
from guideflow.problem import Problem
from guideflow.settings import Result
from guideflow.solution import Solution

_HALF = (torch.float16, torch.bfloat16)


@own_state()
def next_step(solution: Solution) -> str:
    """Say where nan or inf came from, in those images that met them, and what to try; empty if that cannot be told."""
    problem, lost = solution.problem, [i for i, result in enumerate(solution.result) if result.failed]
    if problem is None or not lost:
        return ""
    if not bool(torch.isfinite(solution.images[lost]).all()):
        return f"The sampler's pictures are nan or inf themselves. {_precise(problem, 'another seed or checkpoint')}"
    terms = [term for term in as_sum(problem.loss).terms if term.weight]
    if spoilt := [term for term in terms if _is_spoilt(term, solution, lost)]:
        names = " and ".join(repr(term.name) for term in spoilt)
        others = "Leave it out, as the others are finite, or try" if len(spoilt) < len(terms) else "Try"
        return (
            f"It is the loss {names} whose value or gradient is so on these pictures. {others} another seed or prompt; "
            "in a loss of your own keep sqrt, log and divisions off 0: `x.clamp(min=1e-6)`."
        )
    at_once = all(solution.result[i] is Result.NONFINITE_START for i in lost)
    if at_once:
        cure = _precise(problem, f"a lower loss_scale than {problem.loss_scale:g}")
        return f"The loss is finite, but not its gradient through the sampler. {cure}"
    scale = getattr(solution.solver, "scale", None)
    lower = f"a scale= below {scale:g}" if isinstance(scale, int | float) else "a solver with shorter steps"
    return f"The steps of {solution.solver!r} lead to where it is nan, inf or huge. {_precise(problem, lower)}"


def _precise(problem: Problem, instead: str) -> str:
    if problem.sampler.dtype in _HALF:
        dtype = str(problem.sampler.dtype).removeprefix("torch.")
        return f"Load the sampler with dtype=float32 in the place of {dtype}, or try {instead}."
    return f"Try {instead}."


def _is_spoilt(term: Term, solution: Solution, lost: list[int]) -> bool:
    """Tell whether a term by itself is what is nan or inf, in its value or in its gradient by the picture."""
    values = solution.history.get(term.name)
    if values is not None and not bool(torch.isfinite(values[:, lost]).all()):
        return True
    try:
        with torch.enable_grad():
            images = solution.images.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(term.evaluate(images, None).objective.sum(), images, allow_unused=True)
        return gradient is not None and not bool(torch.isfinite(gradient[lost]).all())
    except Exception:  # after the work, of a loss that has failed already
        return False
