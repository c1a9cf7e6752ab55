"""What commands say on standard error: one line for what went wrong, and the rest for who asks for it."""

import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from guideflow.cli.console import visible
from guideflow.errors import GuideflowError, MissingWeights

TRACEBACK: Final = "--traceback"
"""An option of every command, before or after its name: show where in the code an error was raised."""

_OURS: Final = Path(__file__).parent.parent


def complain(error: BaseException, text: str, code: int, shown: bool) -> int:
    """Tell an error in a line on standard error, after its traceback if that is to be shown; return the exit code.

    A message about weights keeps its lines: one of them is a command to copy.
    """
    if shown:
        traceback.print_exception(error)
    lines = text.splitlines() if isinstance(error, MissingWeights) else [" ".join(text.split())]
    print(f"guideflow: {visible(chr(10).join(lines))}", file=sys.stderr)
    return code


def told(error: BaseException) -> str:
    """Write an error on one line: for users as it is, else with its kind and the place in the code that raised it."""
    if isinstance(error, GuideflowError):
        return typed(error)
    if isinstance(error, OSError):
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or error}"
    frames = traceback.extract_tb(error.__traceback__)
    # What is not a library's is the user's own file; the last frame, where there is none.
    own = [frame for frame in frames if not _is_library(frame.filename)] or list(frames)
    if not own:
        return f"{type(error).__name__}: {error}"
    line = f": {own[-1].line[:100]}" if own[-1].line and not _is_library(own[-1].filename) else ""
    place = f" ({_short(own[-1].filename)}, line {own[-1].lineno}{line})"
    return f"{type(error).__name__}: {error}{place}"


def typed(error: GuideflowError) -> str:
    """Return the message of an error as it is meant for who types commands."""
    return error.typed or str(error)


def _is_library(file: str) -> bool:
    path = Path(file)
    return "site-packages" in path.parts or file.startswith("<") or path.is_relative_to(_OURS)


def _short(file: str) -> str:
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings as one line each, without the line of the source that gave them."""

    def formatted(message: Any, *_: Any, **__: Any) -> str:
        return f"guideflow: warning: {visible(' '.join(str(message).split()))}\n"

    before = warnings.formatwarning
    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = before


def wants_traceback(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Take the option that every command has out of what was typed."""
    return [one for one in arguments if one != TRACEBACK], TRACEBACK in arguments
