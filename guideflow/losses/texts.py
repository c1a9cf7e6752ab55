"""Texts that losses read: what is beyond the context of a network is told, not cut in silence."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from guideflow._told import shorten


def warn_of_cut(texts: Sequence[str], tokenize: Callable[[str], Tensor], what: str) -> None:
    """Warn of the part of each text that makes no difference, because a network reads so many tokens and no more.

    Arguments:
        texts: As given.
        tokenize: A text to the tokens (1, L) that the network reads, padded at the end.
        what: Whose context it is, for the message.
    """
    padding = tokenize("")[0, -1]
    for text in texts:
        whole, low, high = tokenize(text), 0, len(text.rstrip())
        if whole.dtype == torch.bool or whole.shape[1] < 2 or whole[0, -2] == padding:
            continue  # there is room left
        # The shortest beginning that reads like all of it.
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if torch.equal(tokenize(text[:middle]), whole) else (middle + 1, high)
        if lost := text[low:].strip():
            warnings.warn(
                f"A text has more tokens than {what} reads: {lost!r} is not seen. Shorten the text "
                f"{shorten(text, 40)!r}.",
                stacklevel=3,
            )
