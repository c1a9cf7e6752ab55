"""Networks of transformers, from the Hub or a folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from guideflow._require import require
from guideflow.errors import MissingWeights
from guideflow.losses.networks import freeze, from_transformers, one_line

EXTRA = "subject"


def load(kind: str, where: str, option: str) -> nn.Module:
    """Load a network of transformers in float32, frozen; messages name the option of the loss that says where."""
    return freeze(_load(partial(from_transformers, kind, where, extra=EXTRA, dtype=torch.float32), kind, where, option))


def load_tokenizer(where: str, option: str) -> Any:
    """Load the tokenizer beside a network."""
    tokenizer = require("transformers", extra=EXTRA).AutoTokenizer
    return _load(partial(tokenizer.from_pretrained, where), "A tokenizer", where, option)


def _load(make: Callable[[], Any], kind: str, where: str, option: str) -> Any:
    try:
        return make()
    except (OSError, ValueError) as error:  # ValueError: a folder that holds something else
        raise MissingWeights(
            f"{kind} cannot be loaded from {where!r}: {one_line(error)} Fetch it once with network by `hf download "
            f"{where}`, or give a folder that holds it: {option}='path/to/folder'."
        ) from error
