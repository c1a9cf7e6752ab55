"""Steps that lead nowhere: an image whose loss, gradient or controls are lost goes back, and on in a shorter step."""

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from guideflow._solve.advance import Advance
from guideflow._solve.history import measure
from guideflow.solvers import State
from guideflow.types import Mask, PerImage, where

TRIES: Final = 4
"""Of steps of a quarter, a sixteenth, ... of the one that failed; then the image stays where it was."""

_EXPLODED: Final = 1000.0
"""Root mean square of the controls beyond which nothing is left of a picture; noise has 1."""


def is_good(row: dict[str, Tensor], state: State) -> Mask:
    """Tell which images have finite values, and controls that have not exploded."""
    finite = torch.isfinite(row["loss"]) & torch.isfinite(row["gradient_norm"]) & torch.isfinite(row["control_norm"])
    bound: float = _EXPLODED * _entries(state) ** 0.5
    return finite & (row["control_norm"] <= bound)


def shorten(advance: Advance, old: State, new: State, lost: Mask) -> tuple[State, Mask, int]:
    """Go from the last good iterate in a shorter step, image by image, as far as one of the tries is good.

        x = old + d / 4^n,    n = 1..4,    d = new - old, cut to the length of noise

    The solver remembers for them what it did before. What a try costs is a rollout.

    Returns:
        The state, the images for which a try was good, and how many tries there were.
    """
    changes = torch.cat([(new.z0 - old.z0)[None], new.controls - old.controls])
    change = _cut(changes, _entries(old) ** 0.5)
    hopeful, found = lost & (change.abs().transpose(0, 1).flatten(1).amax(1) > 0), torch.zeros_like(lost)
    safe, tries = where(lost, old, new), 0
    while tries < TRIES and bool((hopeful & ~found).any()):
        tries += 1
        move = torch.where(_like(hopeful, change), change / 4**tries, 0)
        z0, controls = safe.z0 + move[0], safe.controls + move[1:]
        state = State(new.iteration, z0, controls, advance.rollout(new.iteration, z0, controls), old.memory)
        better = hopeful & ~found & is_good(measure(state), state)
        own, counted = state.rollout, new.rollout
        state = replace(state, rollout=replace(own, evaluations=counted.evaluations, rebuilt=counted.rebuilt))
        new, found = where(better, state, new), found | better
    return new, found, tries


def _cut(changes: Tensor, length: float) -> Tensor:
    """Leave out what is nan, and shorten what is longer, or inf."""
    finite = changes.nan_to_num(0, torch.finfo(changes.dtype).max, torch.finfo(changes.dtype).min)
    largest = finite.abs().transpose(0, 1).flatten(1).amax(1)
    scaled = finite / _like(largest.clamp(min=1), finite)  # so that no square overflows
    norm: PerImage = torch.linalg.vector_norm(scaled.transpose(0, 1).flatten(1), dim=1)
    return scaled * _like(torch.minimum(largest.clamp(min=1), length / norm.clamp(min=1e-12)), finite)


def _entries(state: State) -> int:
    return state.controls[:, 0].numel()


def _like(values: Tensor, changes: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (changes.dim() - 2))
