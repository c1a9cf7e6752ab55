"""Devices and dtypes as they are given, and what this machine has of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from guideflow._given import one_of
from guideflow._told import said, shorten
from guideflow.errors import InvalidArgument

if TYPE_CHECKING:
    import torch


def as_dtype(
    given: torch.dtype | str, known: Sequence[str] = ("float32", "bfloat16", "float16", "float64")
) -> torch.dtype:
    """Read a dtype that may be given by name, and is one of the known ones."""
    import torch  # only here: listings do without

    one_of("dtype", str(given).removeprefix("torch.") if isinstance(given, torch.dtype) else given, known)
    return getattr(torch, given) if isinstance(given, str) else given


def as_device(given: object) -> torch.device:
    """Read a device that this machine has.

    Raises:
        InvalidArgument: If it is no device of PyTorch's, or there is none here.
    """
    import torch

    try:
        device: torch.device = torch.device(given)  # type: ignore[call-overload]
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidArgument(f"Got device={said(given)}. Expected 'cpu', 'cuda', 'cuda:1' or 'mps'.") from error
    if device.type == "cpu":
        return torch.device("cpu")
    known = {"cuda": "NVIDIA or AMD GPU", "mps": "GPU of Apple's", "xpu": "GPU of Intel's"}
    module = getattr(torch, device.type, None)
    if device.type in known and not (module is not None and module.is_available()):
        raise InvalidArgument(
            f"Got device={said(given)}, but PyTorch finds no {known[device.type]} on this machine. Type device='cpu', "
            "or install a PyTorch that is built for the one there is."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidArgument(
            f"Got device={said(given)}, but there are {torch.cuda.device_count()} GPUs, from cuda:0 on."
        )
    why = cannot_compute(device)
    if why:
        raise InvalidArgument(
            f"Got device={said(given)}, where nothing can be computed here ({why}). Expected 'cpu', 'cuda' or 'mps'; "
            "type device='cpu'."
        )
    return device


def cannot_compute(device: torch.device) -> str:
    """Return why a gradient cannot be computed on a device, as on "meta", whose tensors hold nothing; empty if it can.

    Tried and not looked up: a GPU may be too old for the PyTorch there is, and the devices of extensions are not known.
    """
    import torch

    try:
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.full((1,), 2.0, device=device, requires_grad=True)
            (slope,) = torch.autograd.grad((x * x).sum(), x)
            return "" if x.device.type == device.type and slope.item() == 4 else "its numbers are wrong"
    except Exception as error:  # of each device its own: RuntimeError, NotImplementedError, AcceleratorError, ...
        return shorten((str(error).strip() or type(error).__name__).partition(". ")[0].rstrip("."), 120)
