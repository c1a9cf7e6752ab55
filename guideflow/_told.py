"""How messages write what they were given."""

import difflib
import math
from collections.abc import Iterable


def said(given: object) -> str:
    """Write a value as Python does, in one line of a message; of a number of thousands of digits it writes none."""
    try:
        return shorten(repr(given), 200)
    except Exception:  # of others' classes, and of whole numbers of more digits than Python writes
        if not isinstance(given, int):
            return f"a {type(given).__name__}"
        return f"a whole number of about {int(given.bit_length() * math.log10(2))} digits"


def number(value: float) -> str:
    """Write a loss so that it can be read: four decimals, or three digits where those would hide it."""
    return f"{value:.4f}" if value == 0 or 0.01 <= abs(value) < 10_000 else f"{value:.3g}"


def shorten(text: str, width: int) -> str:
    """Write a text on one line, shortened to whole words if it is longer, with dots for the rest."""
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    end = text.rfind(" ", width // 2, width - 3)  # a word that is longer than half of it, such as a path, is cut
    return f"{text[:end]} ..." if end > 0 else f"{text[: width - 3]}..."


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return a question with the near matches of what was typed, to end a message with; empty if there are none."""
    near = difflib.get_close_matches(given, list(known), n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
