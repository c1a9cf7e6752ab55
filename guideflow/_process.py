"""What a process may be set to by others, and results must not depend on: inference mode, autocast, another device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_AUTOCAST = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def own_state() -> Iterator[None]:
    """Compute with gradients that can be taken, in the dtypes that were asked for, whatever the caller's thread does.

    Node editors and web handlers run everything under `torch.inference_mode`; an `autocast` around a solve would take
    the autoencoder to half precision, in which it overflows; a default device takes new tensors where the others are
    not. All of them belong to the thread, and are back afterwards.
    """
    import torch  # only here: plugins offer samplers without importing it

    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for device in _AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


class InOwnState:
    """A class whose subclasses load, embed references and encode prompts in `own_state`; rollouts are in it already."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        for name in {"__init__", "condition"} & vars(cls).keys():
            setattr(cls, name, own_state()(vars(cls)[name]))


def adopt(network: nn.Module) -> nn.Module:
    """Freeze a network in place, and replace what was made under `torch.inference_mode`, which has no gradient ever."""
    from torch import nn

    ordinary: dict[int, Tensor] = {}  # a weight may be tied to another
    with own_state():
        for module in network.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None and tensor.is_inference():
                        made: Tensor = nn.Parameter(tensor.clone()) if table is module._parameters else tensor.clone()
                        table[name] = ordinary.setdefault(id(tensor), made)  # type: ignore[assignment]
        return network.eval().requires_grad_(False)
