"""A frozen view of a network that stays its owner's: the same weights in memory, layers of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_OFFLOAD = ("_hf_hook", "_old_forward")  # what accelerate leaves on a module whose weights it moves
_OWN = ("_parameters", "_buffers", "_modules")


def frozen_view(network: nn.Module, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Any:
    """Return a network with the same weights that asks for no gradients, in eval mode; the given one is not touched.

    Weights share memory with the given network's, except those that have to be moved or cast. Layers, LoRAs among them,
    attention processors and the user's forward hooks are the same. What accelerate hooks onto a network to move its
    weights in and out is left away, and so is compilation: gradients need all weights in place, and layers one by one.

    Arguments:
        network: Any module, also one that `torch.compile` returned.
        device: Where the view's weights are; the network's by default.
        dtype: Of the view's floating point weights; the network's by default.

    Returns:
        A module of the network's class.
    """
    made: dict[int, Any] = {}

    def share(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        if id(tensor) not in made:
            place = device or tensor.device, dtype if dtype and tensor.is_floating_point() else tensor.dtype
            if not tensor.requires_grad and place == (tensor.device, tensor.dtype):
                made[id(tensor)] = tensor  # as it is: it may be quantised, and more than a tensor
            else:
                data = tensor.detach().to(*place)
                made[id(tensor)] = nn.Parameter(data, requires_grad=False) if isinstance(tensor, nn.Parameter) else data
        return made[id(tensor)]

    def view(module: nn.Module | None) -> Any:
        module = getattr(module, "_orig_mod", module)
        if module is None or id(module) in made:
            return made.get(id(module))
        one = made[id(module)] = type(module).__new__(type(module))
        kept = {name: value for name, value in vars(module).items() if name not in (*_OFFLOAD, *_OWN)}
        if "_hf_hook" in vars(module):
            kept.pop("forward", None)
        vars(one).update(kept, training=False, _compiled_call_impl=None)
        for name in ("_parameters", "_buffers"):
            vars(one)[name] = {key: share(tensor) for key, tensor in vars(module)[name].items()}
        vars(one)["_modules"] = {key: view(child) for key, child in vars(module)["_modules"].items()}
        return one

    return view(network)


def devices(network: nn.Module) -> set[torch.device]:
    """Tell where the weights of a network are."""
    return {tensor.device for tensor in _tensors(network)}


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()
