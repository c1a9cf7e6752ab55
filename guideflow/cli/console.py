"""What is printed is what was meant: nothing that a user, a plugin or a saved run says is read as markup."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO
from unicodedata import category

from rich.console import Console


class Screen(Console):
    """A console that leaves it to the command how it ends when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        """Raise the error again, where rich would exit with 1."""
        raise BrokenPipeError


def console(**options: Any) -> Console:
    """Make a console that knows no markup and no emoji codes in what it prints; styles are given beside the text."""
    return Screen(markup=False, emoji=False, highlight=False, **options)


def visible(text: object) -> str:
    """Write a text of anybody's for a terminal: what controls one, or is half a character, is shown and not sent."""
    hidden = {one for one in str(text) if category(one) in ("Cc", "Cs") and one != "\n"}
    return str(text).translate({ord(one): one.encode("unicode_escape").decode() for one in hidden})


_read: list[TextIO] = []


@contextmanager
def for_programs(asked: bool) -> Iterator[None]:
    """Keep standard output for `print_json` alone: what else is printed, by a plugin say, goes to standard error."""
    if not asked or sys.stdout is None:
        yield
        return
    _read.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _read.pop()


def print_json(value: object) -> None:
    """Print what a program reads."""
    print(json.dumps(value, indent=1), file=_read[-1] if _read else None, flush=True)
