"""Weights in safetensors files: read them one by one, add them to a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guideflow._require import require
from guideflow.errors import InvalidArgument
from guideflow.losses.weights import require_whole, several


class Weights(Mapping[str, Tensor]):
    """Tensors of safetensors files, each read when it is asked for: a network need not fit twice into memory.

    Arguments:
        files: One file, or the shards of one network.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        safetensors = require("safetensors", extra="diffusers")
        self.files = tuple(files)
        self.metadata: dict[str, str] = {}
        self._handles: dict[str, Any] = {}
        for file in self.files:
            require_whole(file)
            handle = safetensors.safe_open(file, framework="pt")
            self.metadata |= handle.metadata() or {}
            self._handles |= dict.fromkeys(handle.keys(), handle)

    @property
    def where(self) -> str:
        """The files, to be named in messages."""
        return ", ".join(map(str, self.files))

    def __getitem__(self, name: str) -> Tensor:
        return self._handles[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)


@torch.no_grad()
def add_weights(network: nn.Module, weights: Weights, minus: Weights | None = None) -> None:
    """Add delta weights to a network in place, W <- W + weights - minus; nothing is changed unless all fit."""
    own = dict(network.named_parameters())
    for part in (weights, minus) if minus is not None else (weights,):
        check_fit(own, part, part.where, complete=minus is not None)
    for name in weights:
        change = weights[name].to(own[name].device, sum_dtype(own[name]))
        if minus is not None:
            change = change - minus[name].to(change)
        add(own[name], change)


def check_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], where: str, *, complete: bool = True) -> None:
    """Refuse weights that are not those of a network's own tensors; if `complete`, every one has to be there."""
    if unknown := [name for name in weights if name not in own]:
        raise InvalidArgument(f"{several(unknown)} of {where} are not weights of the network. Is it of this base?")
    if complete and (lacking := [name for name in own if name not in weights]):
        raise InvalidArgument(f"{where} lacks {several(lacking)}. Expected the weights of a whole network.")
    for name in weights:
        if own[name].is_floating_point() and not weights[name].is_floating_point():
            raise InvalidArgument(f"{name} in {where} is of {weights[name].dtype}. Expected floating-point numbers.")
        given, wanted = tuple(weights[name].shape), tuple(own[name].shape)
        if given != wanted:
            raise InvalidArgument(f"{name} in {where} has shape {given}; the network's has {wanted}.")


def add(layer: Tensor, change: Tensor) -> None:
    """Add to a layer's weight in place, in the dtype of the change."""
    layer.copy_(layer.to(change.dtype) + change)


def sum_dtype(layer: Tensor) -> torch.dtype:
    """Return the dtype to take sums in: float32 or better."""
    return torch.promote_types(layer.dtype, torch.float32)
