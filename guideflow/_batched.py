"""Frozen dataclasses of per-image tensors: row selection and conversion to flat dictionaries, in one place.

Each field says by its metadata what it holds; a field without metadata is an int.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def tensor(axis: int, *, optional: bool = False) -> dict[str, Any]:
    """Mark a field as a tensor (or None, if optional) whose images lie along `axis`."""
    return {"kind": "tensor", "axis": axis, "optional": optional}


def mapping(axis: int) -> dict[str, Any]:
    """Mark a field as a mapping from names to tensors whose images lie along `axis`."""
    return {"kind": "mapping", "axis": axis}


def nested(cls: type) -> dict[str, Any]:
    """Mark a field as such a dataclass itself."""
    return {"kind": "nested", "cls": cls}


def select(mask: Tensor, new: T, old: T) -> T:
    """Take from `new` the images where `mask` is true, from `old` the others; ints come from `new`."""

    def rows(axis: int, new: Tensor, old: Tensor) -> Tensor:
        shape = [1] * new.dim()
        shape[axis] = -1
        return torch.where(mask.view(shape), new, old)

    changes: dict[str, Any] = {}
    for item in fields(new):  # type: ignore[arg-type]
        ours, theirs = getattr(new, item.name), getattr(old, item.name)
        match item.metadata.get("kind"):
            case "tensor" if ours is not None:
                changes[item.name] = rows(item.metadata["axis"], ours, theirs)
            case "mapping":
                changes[item.name] = {name: rows(item.metadata["axis"], ours[name], theirs[name]) for name in ours}
            case "nested":
                changes[item.name] = select(mask, ours, theirs)
    return replace(new, **changes)  # type: ignore[type-var]


def to_tensors(record: Any, prefix: str = "") -> dict[str, Tensor]:
    """Flatten a record to named tensors, for safetensors."""
    tensors: dict[str, Tensor] = {}
    for item in fields(record):
        value, name = getattr(record, item.name), prefix + item.name
        match item.metadata.get("kind"):
            case "tensor":
                tensors |= {} if value is None else {name: value.detach().cpu().contiguous()}
            case "mapping":
                tensors |= {f"{name}.{key}": entry.detach().cpu().contiguous() for key, entry in value.items()}
            case "nested":
                tensors |= to_tensors(value, f"{name}.")
            case _:
                tensors[name] = torch.tensor(int(value))
    return tensors


def from_tensors(cls: type[T], tensors: Mapping[str, Tensor], prefix: str = "", device: Any = None) -> T:
    """Rebuild the record that `to_tensors` flattened."""
    values: dict[str, Any] = {}
    for item in fields(cls):  # type: ignore[arg-type]
        name = prefix + item.name
        match item.metadata.get("kind"):
            case "tensor":
                absent = item.metadata["optional"] and name not in tensors
                values[item.name] = None if absent else tensors[name].to(device)
            case "mapping":
                names = [key for key in tensors if key.startswith(f"{name}.")]
                values[item.name] = {key.removeprefix(f"{name}."): tensors[key].to(device) for key in names}
            case "nested":
                values[item.name] = from_tensors(item.metadata["cls"], tensors, f"{name}.", device)
            case _:
                values[item.name] = int(tensors[name])
    return cls(**values)
