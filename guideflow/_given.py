"""Arguments as they are given: what a function takes, and what it refuses in one line."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from guideflow._told import said
from guideflow.errors import InvalidArgument

MOST_PIXELS_A_SIDE = 2**16


def one_of(name: str, given: object, known: Sequence[object]) -> None:
    """Refuse an option that is none of the known words."""
    try:
        fits = given in known
    except (RuntimeError, ValueError):  # of arrays and tensors, which compare number by number
        fits = False
    if not fits:
        raise InvalidArgument(f"Got {name}={said(given)}. Expected one of: {', '.join(map(repr, known))}.")


def in_range(name: str, given: object, low: float = -math.inf, high: float = math.inf, *, ends: str = "[)") -> None:
    """Refuse an option that is no finite number from `low` to `high`; a round bracket in `ends` leaves that end out."""
    real = isinstance(given, numbers.Real) and not isinstance(given, bool)  # numpy's are registered as such
    if real and not _huge(given) and math.isfinite(given):  # type: ignore[arg-type]
        above = given > low if ends[0] == "(" else given >= low  # type: ignore[operator]
        if above and (given <= high if ends[1] == "]" else given < high):  # type: ignore[operator]
            return
    within = "" if low == -math.inf else f" above {low:g}" if ends[0] == "(" else f" of at least {low:g}"
    within = f" in {ends[0]}{low:g}, {high:g}{ends[1]}" if high < math.inf else within
    point = " (whole ones below 2**63)" if _huge(given) else ""
    raise InvalidArgument(f"Got {name}={said(given)}. Expected a finite number{within}{point}.")


def count(name: str, given: object, low: int = 1, high: int | None = None) -> None:
    """Refuse an option that is no whole number from `low` to `high`, inclusive."""
    whole = isinstance(given, numbers.Integral) and not isinstance(given, bool) and not _huge(given)
    if not whole or given < low or (high is not None and given > high):  # type: ignore[operator]
        within = f"of at least {low}" if high is None else f"from {low} to {high}"
        below = " and below 2**63" if high is None and _huge(given) else ""
        raise InvalidArgument(f"Got {name}={said(given)}. Expected a whole number {within}{below}.")


def _huge(given: object) -> bool:
    """Tell whether it is a whole number with which neither PyTorch nor a file of columns can do anything."""
    return isinstance(given, numbers.Integral) and not -(2**63) <= int(given) < 2**63


def as_text(name: str, given: str) -> str:
    """Read a text that UTF-8 can write; what Python did not take for UTF-8, as in the locale C, is read as it."""
    try:
        return given.encode(errors="surrogateescape").decode()
    except UnicodeError as error:  # bytes of another encoding, or half of a surrogate pair
        before = f"Got {said(given)} in `{name}`, which holds bytes of another encoding than UTF-8."
        raise InvalidArgument(f"{before} Give it in UTF-8.").as_typed(
            f"{before} Type `export LC_ALL=C.UTF-8` and the command again, or the text through `iconv -t utf-8`."
        ) from error


def as_texts(name: str, given: object) -> list[str]:
    """Read one text, or several; None is none."""
    several = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(several, list | tuple) or not all(isinstance(one, str) for one in several):
        raise InvalidArgument(f"Got {name}={said(given)}. Expected a text, or a list of texts.")
    return [as_text(name, one) for one in several]


def as_place(name: str, given: object, example: str) -> Path:
    """Read the name of a file or folder, which need not exist."""
    if isinstance(given, str | os.PathLike) and isinstance(path := os.fspath(given), str) and path and "\0" not in path:
        return Path(path)
    raise InvalidArgument(f"Got {said(given)} as {name}. Expected a path, such as {example!r}.")


def as_numbers(name: str, given: object) -> tuple[float, ...]:
    """Read several finite numbers, of a list, a tuple, an array or a tensor; a text is none."""
    found: tuple[float, ...] | None = None
    if not isinstance(given, str | bytes | Mapping | Set):
        with suppress(TypeError, ValueError, OverflowError, RuntimeError):
            found = tuple(float(one) for one in given)  # type: ignore[attr-defined]
    if found is None or not all(map(math.isfinite, found)):
        raise InvalidArgument(f"Got {name}={said(given)}. Expected finite numbers, as a list.")
    return found


def as_size(given: object, name: str = "size") -> tuple[int, int]:
    """Read the side of a square, or (height, width), in whole pixels; a text is neither."""
    given = plain_number(given)
    sides: list[Any] = [given, given] if isinstance(given, numbers.Integral) else []
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        sides = [*given]
    whole = [isinstance(plain_number(one), int) and not isinstance(plain_number(one), bool) for one in sides]
    if len(sides) == 2 and all(whole) and 0 < min(sides) and max(sides) <= MOST_PIXELS_A_SIDE:
        return int(sides[0]), int(sides[1])
    raise InvalidArgument(
        f"Got {name}={said(given)}. Expected the side of a square, or (height, width), from 1 to {MOST_PIXELS_A_SIDE}."
    )


def plain_number(given: object) -> object:
    """Return the Python number that a number of numpy, or a tensor that holds one, stands for; all else as it is.

    Fractions and decimals become float, as JSON has no others.
    """
    item = getattr(given, "item", None)
    if callable(item) and getattr(given, "shape", None) == ():
        return item()
    return float(given) if isinstance(given, Fraction | Decimal) else given
