"""What any module may ask for: a package that may be missing, and an option within its range."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Iterable, Sequence
from types import ModuleType

from guideflow.errors import InvalidArgument, MissingExtra

SLOW = (
    "PIL",
    "accelerate",
    "diffusers",
    "insightface",
    "kornia",
    "matplotlib",
    "onnxruntime",
    "open_clip",
    "rich",
    "scipy",
    "segmentation_models_pytorch",
    "timm",
    "torchvision",
    "transformers",
    "typer",
)
"""Packages that no module imports at its top; pyproject.toml bans them by the same names."""


def require(module: str, /, *, extra: str) -> ModuleType:
    """Import a package that is slow to import or may not be installed.

    Arguments:
        module: Its import name.
        extra: The extra of guideflow that installs it.

    Returns:
        The module.

    Raises:
        MissingExtra: If it is not installed. The message names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        cure = f"pip install 'guideflow[{extra}]'"
        raise MissingExtra(f"{package} is needed here and is not installed. Install it with: {cure}") from error


def one_of(name: str, given: object, known: Sequence[object]) -> None:
    """Refuse an option that is none of the known words.

    Raises:
        InvalidArgument: Listing them.
    """
    if given not in known:
        raise InvalidArgument(f"Got {name}={given!r}. Expected one of: {', '.join(map(repr, known))}.")


def in_range(name: str, given: object, low: float = -math.inf, high: float = math.inf) -> None:
    """Refuse an option that is no finite number in [low, high).

    Raises:
        InvalidArgument: With the range.
    """
    if isinstance(given, bool) or not isinstance(given, int | float) or not low <= given < high or math.isinf(given):
        within = f" in [{low:g}, {high:g})" if high < math.inf else f" of at least {low:g}" if low > -math.inf else ""
        raise InvalidArgument(f"Got {name}={given!r}. Expected a finite number{within}.")


def count(name: str, given: object, low: int = 1, high: int | None = None) -> None:
    """Refuse an option that is no whole number from `low` to `high`, inclusive.

    Raises:
        InvalidArgument: With the range.
    """
    if isinstance(given, bool) or not isinstance(given, int) or given < low or (high is not None and given > high):
        within = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise InvalidArgument(f"Got {name}={given!r}. Expected a whole number {within}.")


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return a question with the near matches of what was typed, to end a message with; empty if there are none."""
    near = difflib.get_close_matches(given, list(known), n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
