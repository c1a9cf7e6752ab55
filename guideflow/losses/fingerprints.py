"""Which networks a loss or a metric looks through: told apart by their weights, and by their architecture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_SHARE = 0.1
"""A part that holds less of a network than this says nothing of it: many begin with the same few numbers."""


@dataclass(frozen=True)
class Fingerprint:
    """What tells a network from others.

    Arguments:
        weights: SHA-256 of its weights, as float32.
        architecture: SHA-256 of the kinds of its layers and of the shapes of its weights.
        parts: `weights` of every part that holds a tenth of it or more, itself included.
    """

    weights: str
    architecture: str
    parts: frozenset[str]


def fingerprints(thing: object) -> dict[str, Fingerprint]:
    """Find the networks that a loss or a metric holds, and take the fingerprint of each.

    Arguments:
        thing: A network, or whatever holds some in its attributes, however deep.

    Returns:
        By the place where each was found; empty if there is none with weights.
    """
    return {name: fingerprint(network) for name, network in networks(thing)}


def fingerprint(network: nn.Module) -> Fingerprint:
    """Take the fingerprint of one network."""
    tensors = {name: _digest(value) for name, value in network.state_dict().items()}
    sizes = {name: value.numel() for name, value in network.state_dict().items()}
    whole, parts = sum(sizes.values()), set()
    for place, _ in network.named_modules():
        start = f"{place}." if place else ""
        mine = [name for name in tensors if name.startswith(start)]
        if sum(sizes[name] for name in mine) >= max(1, _SHARE * whole):
            parts.add(_joined(tensors[name] for name in mine))
    kinds = (f"{place}:{type(module).__name__}" for place, module in network.named_modules())
    shapes = (f"{name}:{tuple(value.shape)}" for name, value in network.state_dict().items())
    architecture = hashlib.sha256("\n".join([*kinds, *shapes]).encode()).hexdigest()
    return Fingerprint(_joined(tensors.values()), architecture, frozenset(parts))


def networks(thing: object, depth: int = 4) -> Iterator[tuple[str, nn.Module]]:
    """Find the networks with weights in the attributes of an object, each with its place."""
    seen: set[int] = set()

    def search(one: Any, place: str, left: int) -> Iterator[tuple[str, nn.Module]]:
        if id(one) in seen or isinstance(one, torch.Tensor | str | bytes | type) or left < 0:
            return
        seen.add(id(one))
        if isinstance(one, nn.Module):
            if one.state_dict():
                yield place or type(one).__name__, one
            return
        if isinstance(one, Mapping):
            inner = {str(key): value for key, value in one.items()}
        elif isinstance(one, list | tuple):
            inner = {str(i): value for i, value in enumerate(one)}
        else:
            inner = dict(getattr(one, "__dict__", {}))
        for key, value in inner.items():
            yield from search(value, f"{place}.{key}".strip("._"), left - 1)

    yield from search(thing, "", depth)


def _digest(tensor: torch.Tensor) -> str:
    value = tensor.detach().cpu()
    value = value.float() if value.is_floating_point() else value
    return hashlib.sha256(str(tuple(value.shape)).encode() + value.contiguous().numpy().tobytes()).hexdigest()


def _joined(digests: Any) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()
