"""What a process computes float32 in: whole float32 while guideflow computes, whatever was chosen for the process.

These settings belong to all threads, so the first that comes in sets them and the last that leaves puts them back.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

_lock, _inside = threading.Lock(), 0
_restore: Callable[[], None] = lambda: None  # noqa: E731

_COARSE: Final = ("tf32", "bf16")
_WHOLE: Final = "ieee"


@contextmanager
def whole_float32() -> Iterator[None]:
    """Multiply float32 as float32, and choose the algorithms of cuDNN by rule and not by a race of the moment.

    `torch.set_float32_matmul_precision("medium")` and the flags under `torch.backends` let float32 networks compute in
    bfloat16 or TF32. Where nothing of this is set, nothing is touched; nor what makes numbers finer than by default,
    nor what somebody else has set in the meantime.
    """
    global _inside, _restore
    with _lock:
        if not _inside:
            _restore = _set()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _restore()


@contextmanager
def whole_denormals() -> Iterator[None]:
    """Keep the smallest numbers, which a thread may be set to take for zero."""
    import torch

    flushed = sys.float_info.min / 2 == 0
    if flushed:
        torch.set_flush_denormal(False)
    try:
        yield
    finally:
        if flushed:
            torch.set_flush_denormal(True)


def settings() -> dict[str, Any]:
    """Return what else a process may be set to that changes the rounding of a solve, where it is not the default."""
    import torch

    cuda: Any = torch.backends.cuda
    cudnn = torch.backends.cudnn
    found = {
        "mkldnn": torch.backends.mkldnn.enabled,
        "cudnn": cudnn.enabled,
        "cudnn tf32": _cudnn_tf32(),
        "fp16 reduction": bool(cuda.matmul.allow_fp16_reduced_precision_reduction),
        "bf16 reduction": bool(cuda.matmul.allow_bf16_reduced_precision_reduction),
        "flash attention": cuda.flash_sdp_enabled(),
        "memory-efficient attention": cuda.mem_efficient_sdp_enabled(),
        "math attention": cuda.math_sdp_enabled(),
        "cudnn attention": cuda.cudnn_sdp_enabled(),
    }
    off = {name: "off" for name, on in found.items() if not on}
    deterministic = torch.are_deterministic_algorithms_enabled() or cudnn.deterministic
    return off | ({"deterministic algorithms": "on"} if deterministic else {})


def _cudnn_tf32() -> bool:
    from torch.backends import cudnn

    convolution = getattr(cudnn, "conv", None)  # since torch 2.9
    return bool(cudnn.allow_tf32 if convolution is None else convolution.fp32_precision == "tf32")


def _set() -> Callable[[], None]:
    """Set what is coarser than by default; return what puts it back, as far as nobody has changed it since."""
    import torch

    cudnn, by_name = torch.backends.cudnn, _by_name()
    before = [(leaf, leaf.fp32_precision) for leaf in _leaves()]
    for leaf, was in before:
        if was in _COARSE:
            leaf.fp32_precision = _WHOLE
    by_name = by_name or _by_name()  # what was set both ways can be told by now
    if by_name not in (None, "highest"):
        torch.set_float32_matmul_precision("highest")
    left = [leaf.fp32_precision for leaf, _ in before]
    raced, cudnn.benchmark = cudnn.benchmark, False

    def restore() -> None:
        same = [(leaf, was) for (leaf, was), ours in zip(before, left, strict=True) if leaf.fp32_precision == ours]
        if by_name not in (None, "highest") and _by_name() == "highest":
            torch.set_float32_matmul_precision(by_name)
        for leaf, was in same:
            if leaf.fp32_precision != was:
                leaf.fp32_precision = "none"  # as it was if it follows the setting for all backends
            if leaf.fp32_precision != was:
                leaf.fp32_precision = was
        cudnn.benchmark = cudnn.benchmark or raced

    return restore


def _by_name() -> str | None:
    """Return what `set_float32_matmul_precision` was given; None where the backends are set one by one."""
    import torch

    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # "... a mix of the legacy and new APIs"
        return None


def _leaves() -> list[Any]:
    """Return the objects whose `fp32_precision` decides for one kind of operation; none before torch 2.9."""
    from torch import backends

    known = [(backends.cuda, "matmul"), *((backends.mkldnn, name) for name in ("matmul", "conv", "rnn"))]
    leaves = [getattr(module, name, None) for module, name in known]
    return [leaf for leaf in leaves if hasattr(leaf, "fp32_precision")]
