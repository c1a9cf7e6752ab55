"""Names for the tensors that travel between samplers, losses and solvers, and where their images lie."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from guideflow.errors import GuideflowError

T = TypeVar("T")

Image: TypeAlias = Float[Tensor, "batch 3 height width"]
"""RGB images in [0, 1]."""

Latent: TypeAlias = Float[Tensor, " batch *latent"]
"""States of a sampler, one per image."""

Latents: TypeAlias = Float[Tensor, "steps batch *latent"]
"""One latent per step (or window) of a sampler and per image."""

States: TypeAlias = Float[Tensor, "states batch *latent"]
"""All states of a trajectory, the first one included."""

PerImage: TypeAlias = Float[Tensor, " batch"]
"""One number per image."""

Mask: TypeAlias = Bool[Tensor, " batch"]
"""One truth value per image."""

LossLike: TypeAlias = Callable[[Tensor], Tensor]
"""Any callable that maps a batch of images to one number per image; lower is better."""

BY_STEP: Final = MappingProxyType({"axis": 1})
"""Metadata of a dataclass field whose images lie along the second axis, as in (K, B, ...); others have them first."""


def shown(record: object) -> str:
    """Write a record of tensors with their shapes in place of their entries."""
    if isinstance(record, Tensor):
        return f"{str(record.dtype).removeprefix('torch.')}{list(record.shape)}"
    if isinstance(record, Mapping):
        return f"{{{', '.join(f'{name!r}: {shown(value)}' for name, value in record.items())}}}"
    if isinstance(record, tuple):
        return f"({', '.join(map(shown, record))})"
    if is_dataclass(record) and type(record).__repr__ is shown:
        values = (f"{item.name}={shown(getattr(record, item.name))}" for item in fields(record) if item.repr)
        return f"{type(record).__name__}({', '.join(values)})"
    return repr(record)


def map_tensors(function: Callable[..., Tensor], *records: T, axis: int = 0) -> T:
    """Apply a function to all tensors of records that are built alike, and return such a record.

    Arguments:
        function: takes one tensor of each record, and the axis along which their images lie.
        records: frozen dataclasses of tensors, records, mappings and tuples of them, and whatever else, which is taken
            from the first.
        axis: where the images of a tensor lie that is given by itself.
    """
    first: Any = records[0]
    found: Any = first
    if isinstance(first, Tensor):
        found = function(*records, axis)
    elif isinstance(first, Mapping):
        found = {name: map_tensors(function, *(record[name] for record in records)) for name in first}  # type: ignore[index]
    elif isinstance(first, tuple):
        found = tuple(map_tensors(function, *entries) for entries in zip(*records, strict=True))
    elif is_dataclass(first):
        parts = {}
        for item in fields(first):
            values = (getattr(record, item.name) for record in records)
            parts[item.name] = map_tensors(function, *values, axis=item.metadata.get("axis", 0))
        found = replace(first, **parts)  # type: ignore[type-var]
    return found  # type: ignore[no-any-return]


def where(mask: Mask, new: T, old: T) -> T:
    """Take from `new` the images where the mask is true, from `old` the others; records as of `map_tensors`."""

    def rows(new: Tensor, old: Tensor, axis: int) -> Tensor:
        return torch.where(mask.view(*[1] * axis, -1, *[1] * (new.dim() - axis - 1)), new, old)

    return map_tensors(rows, new, old)


@contextmanager
def intact(records: object, who: str, kind: type[GuideflowError]) -> Iterator[None]:
    """Refuse a call that changes the tensors of some records in place, naming who does.

    Of one tensor on the CPU by itself the numbers are compared too: `x.data` and `x.numpy()` change it uncounted.
    """
    before, bits = _versions(records), _bits(records)
    yield
    now = None if bits is None else _bits(records)
    if _versions(records) != before or (bits is not None and (now is None or not torch.equal(now, bits))):
        raise kind(
            f"{who} changes what it is given, in place, and others go by the same numbers. Expected a new tensor: "
            "`x = x.clamp(0, 1)` in the place of `x.clamp_(0, 1)`, or `x = x.clone()` first."
        )


def _bits(record: object) -> Tensor | None:
    if not isinstance(record, Tensor) or record.device.type != "cpu" or record.layout is not torch.strided:
        return None
    return record.detach().flatten().clone().view(torch.uint8)  # nan equals itself


def _versions(records: object) -> list[int]:
    found = list[int]()

    def note(tensor: Tensor, axis: int) -> Tensor:
        if not tensor.is_inference():  # those are not counted
            found.append(tensor._version)
        return tensor

    map_tensors(note, records)
    return found
