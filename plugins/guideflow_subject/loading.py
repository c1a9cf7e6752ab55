"""Networks of transformers, from the Hub or a folder."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from guideflow._require import require
from guideflow.errors import MissingWeights


def load(kind: str, where: str, option: str) -> nn.Module:
    """Load a network in float32, frozen.

    Arguments:
        kind: The class of transformers.
        where: `owner/name` on the Hub, or a folder.
        option: The option of the loss that says where, for the message.

    Raises:
        MissingWeights: If it is neither there nor in the Hub's cache.
    """
    network: nn.Module = _load(kind, where, option, dtype=torch.float32)
    return network.eval().requires_grad_(False)


def load_tokenizer(where: str, option: str) -> Any:
    """Load the tokenizer beside a network."""
    return _load("AutoTokenizer", where, option)


def _load(kind: str, where: str, option: str, **options: Any) -> Any:
    transformers = require("transformers", extra="subject")
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return getattr(transformers, kind).from_pretrained(where, **options)
    except (OSError, ValueError) as error:  # ValueError: a folder that holds something else
        raise MissingWeights(
            f"{kind} cannot be loaded from {where!r}: {' '.join(str(error).split())[:200]} Fetch it once with network "
            f"by `hf download {where}`, or give a folder that holds it: {option}='path/to/folder'."
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()
