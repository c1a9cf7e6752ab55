"""Run named checks: all together in one call, or as the cases of a pytest test."""

import inspect
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from guideflow import registry
from guideflow._require import SLOW
from guideflow.errors import InvalidArgument
from guideflow.sampler import Sampler

Check: TypeAlias = Callable[[Any], None]
"""Takes what its family prepares (pictures, a problem, ...) and raises if something is wrong."""


class ConformanceFailure(AssertionError):
    """Some checks failed; `failures` maps the name of each to what it raised."""

    def __init__(self, message: str, failures: Mapping[str, Exception]) -> None:
        super().__init__(message)
        self.failures = dict(failures)


class UnexpectedPass(AssertionError):
    """A check that is listed as an expected failure passed."""


def check_name(check: Check) -> str:
    """Return the name of a check as reports show it: `batch-independent` for `check_batch_independent`."""
    return check.__name__.removeprefix("check_").replace("_", "-")


def troubleshooting(check: Check) -> str:
    """Return the line of a check's docstring that tells what to do when it fails."""
    _, _, cure = (inspect.getdoc(check) or "").partition("Troubleshooting:")
    return " ".join(cure.split())


def run(checks: Sequence[Check], prepare: Callable[[], Any], expected_failures: Mapping[str, str]) -> None:
    """Run every check, and report all failures together in a `ConformanceFailure`, with what to do about each."""
    failures: dict[str, Exception] = {}
    lines = []
    for check, (name, case) in zip(checks, _cases(checks, prepare, expected_failures).items(), strict=True):
        try:
            case()
        except Exception as error:
            failures[name] = error
            cure = "" if isinstance(error, UnexpectedPass) else f"\n    {troubleshooting(check)}"
            lines.append(f"{name}: {type(error).__name__}: {error}{cure}")
    if failures:
        raise ConformanceFailure(f"{len(failures)} of {len(checks)} checks failed.\n\n" + "\n".join(lines), failures)


def _run_one(check: Check, prepare: Callable[[], Any], expected: str | None) -> None:
    try:
        check(prepare())
    except Exception:
        if expected is None:
            raise
        return
    if expected is not None:
        raise UnexpectedPass(f"It passed, but is listed as an expected failure ({expected}). Take it off the list.")


def parametrize(checks: Sequence[Check], prepare: Callable[[], Any], expected_failures: Mapping[str, str]) -> Any:
    """Return a mark that gives a test function each check in turn, as its argument `check`."""
    import pytest

    cases = _cases(checks, prepare, expected_failures).items()
    return pytest.mark.parametrize("check", [pytest.param(case, id=name) for name, case in cases])


def _cases(
    checks: Sequence[Check], prepare: Callable[[], Any], expected_failures: Mapping[str, str]
) -> dict[str, Callable[[], None]]:
    """Return each check by name, as a call on its own freshly prepared subject."""
    names = [check_name(check) for check in checks]
    for name, reason in expected_failures.items():
        if name not in names:
            raise InvalidArgument(f"There is no check named {name!r}. Checks: {', '.join(names)}.")
        if not reason.strip():
            raise InvalidArgument(f"The expected failure {name!r} has no reason. Give one: {{{name!r}: 'why'}}.")
    found = zip(names, checks, strict=True)
    return {name: partial(_run_one, check, prepare, expected_failures.get(name)) for name, check in found}


def require(condition: bool, message: str) -> None:
    """Raise `AssertionError` unless the condition holds; unlike `assert`, also under `python -O`."""
    if not condition:
        raise AssertionError(message)


def require_light_import(kind: str, name: str) -> None:
    """Import the module of a plugin in a new process, and fail if it imports anything slow."""
    module = registry.find(kind, name).plugin.module
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & set({SLOW!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    require(not done.stdout.split(), f"importing {module} also imports {done.stdout.strip()}")


def require_close(found: Tensor, expected: Tensor, message: str, tolerance: float) -> None:
    """Require two tensors to agree to a tolerance relative to the largest entry."""
    require(found.shape == expected.shape, f"{message}: shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    difference = (found - expected).abs().max().item() if found.numel() else 0.0
    scale = max(expected.abs().max().item(), 1e-6) if expected.numel() else 1.0
    require(difference <= tolerance * scale, f"{message}: they differ by {difference:.3g}, largest entry {scale:.3g}")


def require_gradient(
    function: Callable[[Tensor], Tensor],
    at: Tensor,
    message: str,
    tolerance: float = 0.05,
    bounds: tuple[float, float] = (-torch.inf, torch.inf),
) -> None:
    """Require the slope along the gradient to be the gradient's norm, for a finite difference of some step.

    Steps from coarse to fine are tried, because float32 rounds small differences away and large ones leave the region
    where the function is smooth, or its `bounds`. Rows of `at` are stepped together, so the function's rows must be
    independent.
    """
    point = at.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(point).sum(), point)
    require(bool(torch.isfinite(gradient).all()), f"{message}: the gradient is not finite")
    norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    require(bool((norm > 0).all()), f"{message}: the gradient of some row is zero")
    direction = gradient / norm.view(-1, *[1] * (at.dim() - 1))
    worst = torch.full_like(norm, torch.inf)
    with torch.no_grad():
        low, high = bounds
        for step in (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001):
            reached = torch.stack([at - step * direction, at + step * direction])
            if step > 0.001 and not (reached.min() >= low and reached.max() <= high):
                continue
            slope = (function(at + step * direction) - function(at - step * direction)) / (2 * step)
            worst = torch.minimum(worst, (slope / norm - 1).abs().nan_to_num(torch.inf))
            if bool((worst <= tolerance).all()):
                return
    raise AssertionError(f"{message}: finite differences disagree with the gradient by {worst.max().item():.0%}")


def trainable(subject: object, depth: int = 3) -> list[str]:
    """Return where an object holds parameters that ask for gradients, looking through its attributes."""
    if isinstance(subject, nn.Module):
        return [name for name, parameter in subject.named_parameters() if parameter.requires_grad]
    if isinstance(subject, Tensor):
        return ["a tensor"] if subject.requires_grad else []
    if depth == 0 or isinstance(subject, str | bytes | type):
        return []
    if isinstance(subject, Mapping):
        parts: Mapping[str, object] = {str(key): value for key, value in subject.items()}
    elif isinstance(subject, list | tuple):
        parts = {str(index): value for index, value in enumerate(subject)}
    else:
        parts = getattr(subject, "__dict__", {})
    return [f"{name}.{found}" for name, part in parts.items() for found in trainable(part, depth - 1)]


@final
class Plain(Sampler):
    """Any deterministic sampler, without what it has beyond `Sampler`."""

    def __init__(self, inner: Sampler) -> None:
        self.inner, self.device, self.dtype = inner, inner.device, inner.dtype
        self.num_steps, self.latent_shape, self.image_size = inner.num_steps, inner.latent_shape, inner.image_size

    def condition(self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None) -> Any:
        return self.inner.condition(prompts, negative_prompts)

    def step(self, k: int, z: Tensor, condition: Any, noise: Tensor | None = None) -> Tensor:
        return self.inner.step(k, z, condition, noise)

    def decode(self, z: Tensor) -> Tensor:
        return self.inner.decode(z)
