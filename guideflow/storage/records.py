"""Records, which are frozen dataclasses of tensors, ints, mappings and records, as named tensors and back."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any
from urllib.parse import quote, unquote

import torch
from torch import Tensor


def flatten(value: Any, name: str) -> dict[str, Tensor]:
    """Flatten a record to tensors by path: state/rollout/terms/identity."""
    if value is None:
        return {}
    if isinstance(value, Tensor | int):
        return {name: torch.as_tensor(value).detach().cpu().contiguous()}
    if is_dataclass(value):
        value = {item.name: getattr(value, item.name) for item in fields(value)}
    elif isinstance(value, tuple):
        value = {str(i): entry for i, entry in enumerate(value)}
    found: dict[str, Tensor] = {}
    for key, entry in value.items():
        found |= flatten(entry, f"{name}/{quote(key, safe='')}")
    return found or {f"{name}/": torch.empty(0)}  # so that an empty mapping comes back


def unflatten(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the nested mappings that `flatten` took apart."""
    root: dict[str, Any] = {}
    for path, value in tensors.items():
        *above, name = map(unquote, path.split("/"))
        node = root
        for key in above:
            node = node.setdefault(key, {})
        if name:
            node[name] = value
    return root
