"""Memory: how much a differentiable call keeps, how much a device has left, and what running out of it looks like."""

import errno
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from guideflow.errors import OutOfMemory

_CGROUP_V2 = ("memory.max", "memory.current", "inactive_file")
_CGROUP_V1 = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file")
_EXHAUSTED = ("can't allocate memory", "not enough memory", "out of memory")


class Created(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every storage made meanwhile, with its bytes; weights and inputs are not among them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # The weak reference keeps the identity from being given to another storage once this one is gone.
        self.found: dict[int, tuple[StorageWeakRef, int]] = {}

    @property
    def alive(self) -> int:
        """Bytes of those that still exist."""
        there = (size for storage, size in self.found.values() if not storage.expired())  # type: ignore[no-untyped-call]
        return sum(there)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_identity(tensor) for tensor in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if _identity(tensor) not in given:
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self.found.setdefault(storage._cdata, (reference, storage.nbytes()))
        return result


def kept_bytes(call: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """Evaluate a differentiable function and tell what its graph would keep for the backward pass, without keeping it.

    Arguments:
        call: what to evaluate.

    Returns:
        The result, detached, and the bytes of all storages autograd asked to save, each once; weights, and whatever
        else was there before, are left out.
    """
    saved: dict[int, int] = {}

    def drop(tensor: Tensor) -> None:
        if _identity(tensor) in created.found:
            saved[_identity(tensor)] = created.found[_identity(tensor)][1]

    with torch.enable_grad(), Created() as created, torch.autograd.graph.saved_tensors_hooks(drop, lambda _: _):
        result = call().detach()
    return result, sum(saved.values())


def alive_bytes(call: Callable[[], Tensor]) -> int:
    """Evaluate a differentiable function and tell what is alive as long as its result is, whatever keeps it.

    Unlike `kept_bytes` this needs the memory, and sees also what checkpointing keeps beside autograd.
    """
    with torch.enable_grad(), Created() as created:
        result = call()
    total: int = created.alive
    del result
    return total


def available_bytes(device: torch.device) -> float:
    """Bytes that can still be allocated: of a GPU the free ones, of a Linux machine those of it or of its cgroup.

    Infinite where the system does not tell.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + unused)
    if device.type != "cpu":
        return math.inf
    free = [_cgroup(Path("/sys/fs/cgroup"), *names) for names in (_CGROUP_V2, _CGROUP_V1)]
    return min(_field(Path("/proc/meminfo"), "MemAvailable:", 1024), *free)


def peak_bytes(device: torch.device) -> int:
    """Most bytes that were in use at a time so far: on a GPU by tensors, otherwise by the process; 0 on Windows."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on any device."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _EXHAUSTED)


@contextmanager
def enough_for(what: str, cure: str) -> Iterator[None]:
    """Where memory runs out for something, say so, and what to give, with the first line of what the device says."""
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        why = (str(error) or repr(error)).splitlines()[0]
        raise OutOfMemory(f"There is not enough memory for {what} ({why}). Give {cure}.") from error


def _cgroup(folder: Path, limit: str, used: str, cache: str) -> float:
    """Bytes left to this process's cgroup; file cache is given back when needed."""
    most, now = (_read(folder / name).strip() for name in (limit, used))
    if not (most.isdigit() and now.isdigit()):  # there is no such group, or its limit is "max"
        return math.inf
    return float(most) - float(now) + _field((folder / limit).parent / "memory.stat", cache, otherwise=0)


def _field(path: Path, name: str, unit: int = 1, otherwise: float = math.inf) -> float:
    lines = (line.split() for line in _read(path).splitlines())
    return next((float(line[1]) * unit for line in lines if line[:1] == [name]), otherwise)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _identity(tensor: Tensor) -> int:
    identity: int = tensor.untyped_storage()._cdata
    return identity


def _tensors(values: Any) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
