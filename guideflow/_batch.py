"""What is asked of each image: a prompt, a negative prompt and a seed; one for all, or one for each."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from guideflow._require import plain_number
from guideflow.errors import InvalidArgument

T = TypeVar("T")


def broadcast(
    prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None, seed: int | Sequence[int]
) -> tuple[tuple[str, ...], tuple[str, ...] | None, tuple[int, ...]]:
    """Return a prompt, a negative prompt (or None) and a seed for each image."""
    given: dict[str, Any] = {"prompt": _each(prompt, "prompt", _text), "seed": _each(seed, "seed", _seed)}
    if negative_prompt is not None:
        given["negative_prompt"] = _each(negative_prompt, "negative_prompt", _text)
    batch = max(map(len, given.values()))
    if batch == 0 or any(len(values) not in (1, batch) for values in given.values()):
        counts = ", ".join(f"{len(values)} for `{name}`" for name, values in given.items())
        raise InvalidArgument(f"Got lists of different lengths: {counts}. Give each one value, or one per image.")
    full = {name: values * (batch // len(values)) for name, values in given.items()}
    return full["prompt"], full.get("negative_prompt"), full["seed"]


def _each(given: Any, name: str, read: Callable[[Any], T | None]) -> tuple[T, ...]:
    """Read one value, or each of several; numbers may be numpy's or torch's."""
    try:
        values = [given] if isinstance(given, str) or getattr(given, "shape", None) == () else [*given]
    except TypeError:  # one number
        values = [given]
    found = []
    for value in values:
        if (one := read(value)) is None:
            wanted = "whole numbers from -2**63 to 2**64 - 1" if read is _seed else "str, that UTF-8 can write,"
            raise InvalidArgument(f"Got {value!r} in `{name}`. Expected {wanted} only.")
        found.append(one)
    return tuple(found)


def _text(value: Any) -> str | None:
    try:
        return str(value) if isinstance(value, str) and value.encode() is not None else None
    except UnicodeEncodeError:  # half a surrogate pair: bytes of the command line that are no UTF-8
        return None


def _seed(value: Any) -> int | None:
    value = plain_number(value)
    fits = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**64
    return value if fits else None
