"""Where a deployer plugs in what may be asked for and what may be shown: a prompt filter and a safety checker.

    gf.provenance.install(gf.provenance.Guard(prompts=my_filter, images=my_checker))

It holds for every solve of the process. For commands and services, `GUIDEFLOW_GUARD=module:name` names a guard, or a
function that makes one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pkgutil import resolve_name
from typing import Final

from torch import Tensor

from guideflow.errors import InvalidArgument, Refused

GUARD: Final = "GUIDEFLOW_GUARD"

_installed: list[Guard] = []


@dataclass(frozen=True)
class Guard:
    """What a deployer allows.

    Arguments:
        prompts: takes a prompt, returns None if it may be asked for, or else the reason for the user.
        images: takes images (B, 3, height, width) in [0, 1], returns for each whether it must not be shown. Such an
            image is saved, and given by `Solution.to_pil`, as a black one that says so.
    """

    prompts: Callable[[str], str | None] | None = None
    images: Callable[[Tensor], Sequence[bool]] | None = None


def install(guard: Guard | None) -> None:
    """Have a guard looked to by every solve of this process from now on; None takes it away again."""
    if not isinstance(guard, Guard | None):
        raise InvalidArgument(f"Got {guard!r} as guard. Expected a `gf.provenance.Guard`, or None.")
    _installed[:] = [] if guard is None else [guard]


def check_prompts(prompts: Sequence[str]) -> None:
    """Raise `Refused` for the first prompt that a guard does not allow."""
    for filter in [guard.prompts for guard in _guards() if guard.prompts is not None]:
        for prompt in dict.fromkeys(prompts):
            if (reason := filter(prompt)) is not None:
                raise Refused(f"The prompt {prompt!r} is refused: {reason}")


def withheld(images: Tensor) -> list[bool]:
    """Tell for each image whether a guard says that it must not be shown."""
    found = [False] * len(images)
    for checker in [guard.images for guard in _guards() if guard.images is not None]:
        flags = [bool(flag) for flag in checker(images)]
        if len(flags) != len(images):
            raise InvalidArgument(f"The safety checker judged {len(flags)} of {len(images)} images. Expected all.")
        found = [one or other for one, other in zip(found, flags, strict=True)]
    return found


def _guards() -> list[Guard]:
    name = os.environ.get(GUARD)
    return [*_installed, *([_named(name)] if name else [])]


@cache
def _named(name: str) -> Guard:
    try:
        guard = resolve_name(name)
        guard = guard if isinstance(guard, Guard) else guard()
    except Exception as error:
        raise InvalidArgument(f"The guard that {GUARD}={name} names cannot be had: {error}.") from error
    if not isinstance(guard, Guard):
        raise InvalidArgument(f"{GUARD}={name} names {guard!r}. Expected a `gf.provenance.Guard`.")
    return guard
