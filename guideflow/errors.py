"""Every exception guideflow raises on purpose.

A message says what was given, what was expected and what to type next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class GuideflowError(Exception):
    """Root of all errors that guideflow raises on purpose.

    Attributes:
        typed: the message for who types commands, where the cure is another one there than in Python; else empty.
    """

    typed: str = ""

    def __init__(self, *args: object) -> None:
        # What was given may be of any length; what is to be typed stands at the end.
        super().__init__(
            *(f"{one[:900]} ... {one[-900:]}" if isinstance(one, str) and len(one) > 1900 else one for one in args)
        )

    def as_typed(self, message: str) -> Self:
        """Give the message for who types commands; return the error."""
        self.typed = message
        return self


class UnknownPlugin(GuideflowError, LookupError):
    """No plugin offers the requested name."""

    __str__ = Exception.__str__


class DuplicatePlugin(GuideflowError):
    """Two distributions claim the same name."""


class BrokenPlugin(GuideflowError):
    """A plugin failed while it was imported or asked for its entries."""


class MissingExtra(GuideflowError, ImportError):
    """An optional dependency is not installed; the message names the pip command."""


class MissingWeights(GuideflowError, FileNotFoundError):
    """Weights are neither on this machine nor to be had from it; the message names the command that fetches them."""

    __str__ = Exception.__str__


class InvalidImage(GuideflowError, ValueError):
    """An image has the wrong shape, channels or range, or its file cannot be read."""


class InvalidLoss(GuideflowError, ValueError):
    """A loss broke its contract: one differentiable number per image."""


class InvalidArgument(GuideflowError, ValueError):
    """An argument is outside its range or disagrees with another one."""


class IncompatibleSolver(GuideflowError, TypeError):
    """A solver needs a capability that the sampler does not have."""


class OutOfMemory(GuideflowError, RuntimeError):
    """The device has no memory left for what was to be loaded, or for gradients taken as asked."""


class CannotResume(GuideflowError):
    """A saved solution cannot be continued as asked."""


class FolderInUse(GuideflowError, FileExistsError):
    """Saving would overwrite the files of another run."""

    __str__ = Exception.__str__


class Refused(GuideflowError):
    """A prompt is not allowed by the guard that is installed."""


class NonFinite(GuideflowError, ArithmeticError):
    """Some image met a loss or gradient that is nan or inf; raised by `solve(throw=True)` only.

    Attributes:
        solution: what was reached nevertheless.
    """

    def __init__(self, message: str, solution: object = None) -> None:
        super().__init__(message)
        self.solution = solution
