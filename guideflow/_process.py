"""What a process may be set to by others, and results must not depend on: inference mode, autocast, another device."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from guideflow._precision import whole_denormals, whole_float32

if TYPE_CHECKING:
    from torch import Tensor, nn

_AUTOCAST = ("cpu", "cuda", "mps", "xpu")
_ENCODING = threading.RLock()  # a sampler that wraps another encodes with it


@contextmanager
def own_state() -> Iterator[None]:
    """Compute with gradients that can be taken, in the dtypes that were asked for, whatever the caller's thread does.

    Node editors and web handlers run everything under `torch.inference_mode`; an `autocast` around a solve would take
    the autoencoder to half precision, in which it overflows; a default device takes new tensors where the others are
    not. All of them belong to the thread, and are back afterwards; what belongs to the process, such as the precision
    of float32, is back when no thread computes here any more.
    """
    import torch  # only here: plugins offer samplers without importing it

    with ExitStack() as stack:
        stack.enter_context(whole_float32())
        stack.enter_context(whole_denormals())
        stack.enter_context(torch.inference_mode(False))
        for device in _AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def own_numbers() -> Iterator[None]:
    """Leave the caller's random numbers as they are: networks are made of some before their weights are read."""
    import torch

    with torch.random.fork_rng(devices=[]):
        yield


class InOwnState:
    """A class whose subclasses load, embed references and encode prompts in `own_state`; rollouts are in it already.

    Threads that share a sampler encode one after the other: a tokenizer keeps from one call to the next how long it
    fills texts up, and what another thread asks for in between would count for both.
    """

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "__init__" in vars(cls):
            cls.__init__ = own_state()(cls.__init__)  # type: ignore[method-assign]
        if "condition" in vars(cls):
            cls.condition = _one_at_a_time(own_state()(vars(cls)["condition"]))  # type: ignore[attr-defined]


def _one_at_a_time(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def alone(*args: Any, **options: Any) -> Any:
        with _ENCODING:
            return method(*args, **options)

    return alone


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
