"""Files of weights: read without running code, and refused where they are cut, spoiled or something else."""

from __future__ import annotations

import math
import os
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guideflow._told import shorten
from guideflow.errors import InvalidArgument


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """Read a file of weights, safetensors or what `torch.load` reads without running code.

    Raises:
        InvalidArgument: If there is no such file, or it is none.
    """
    file = Path(os.path.expanduser(file))
    require_whole(file)
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return _numbers(load_file(file), file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what it refuses next
            return _numbers(torch.load(file, map_location="cpu", weights_only=True), file)
    except (pickle.UnpicklingError, OSError, RuntimeError, TypeError, ValueError, EOFError) as error:
        if "weights_only" in str(error):
            raise unsafe(file, error, "Save its state dict by itself, where you trust it.") from error
        raise InvalidArgument(f"{file} cannot be read as weights: {one_line(error, 160)}") from error


def require_whole(file: Path) -> None:
    """Refuse a file of weights that is missing, empty, cut short, or the pointer that git leaves in its place."""
    if not file.is_file():  # nor a pipe, which would hang
        raise InvalidArgument(f"There is no file {file}. Expected a file of weights.")
    with file.open("rb") as opened:
        start = opened.read(24)
    if not start:
        raise InvalidArgument(f"{file} is empty. Download it again.")
    if start.startswith(b"version https://git-lfs"):
        raise InvalidArgument(f"{file} is a git-lfs pointer, not the weights. Type `git lfs pull` in its repository.")
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise InvalidArgument(f"{file} cannot be read ({one_line(error, 80)}). Download it again.") from error


def unsafe(where: str | Path, error: Exception, cure: str) -> InvalidArgument:
    """Make the error about weights that `torch.load` refuses because they may run code."""
    kind = "a TorchScript archive" if "TorchScript" in str(error) else "a pickle of more than tensors, or damaged"
    return InvalidArgument(
        f"{where} cannot be read as weights without running code of whoever made it: it is {kind}. Expected "
        f"safetensors, or a state dict that torch.save wrote. {cure}"
    )


def spoiled(weights: Mapping[str, Tensor], *, zeros: bool = False) -> str:
    """Tell why tensors are no weights of a network, empty if they are: some are nan or infinite, or all are zero.

    Arguments:
        weights: By name; what is no number, or nowhere in memory, is passed over.
        zeros: Whether nothing but zeros is taken, as of a network that somebody has made so.
    """
    found, ranges = [], list[float]()
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
            continue
        values = tensor.detach()
        least, most = torch.aminmax(values if values.element_size() > 1 else values.float())
        ranges += [least.item(), most.item()]
        if not all(map(math.isfinite, ranges[-2:])):
            found.append(name)
    if found:
        return f"{listed(sorted(found))} {'hold' if len(found) > 1 else 'holds'} nan or infinite numbers"
    lost = ranges and not zeros and not any(ranges)
    return "its weights are all zero, as of a file that was not downloaded to its end" if lost else ""


def _numbers(weights: Any, file: Path) -> dict[str, Tensor]:
    """Return a state dict, of which each number is one; what else a pickle holds is for others to refuse."""
    found = dict(weights)
    if why := spoiled({name: one for name, one in found.items() if isinstance(one, Tensor)}):
        raise InvalidArgument(f"{file} cannot be read as weights: {why}. Download it again.")
    return found


def one_line(error: BaseException, length: int = 200) -> str:
    """Return what an error says, in one line."""
    return shorten(str(error), length)


def several(names: Sequence[str]) -> str:
    """Count tensors, and name the first few of many."""
    return f"{len(names)} tensors ({listed(names)})"


def listed(names: Sequence[str]) -> str:
    """Name the first few of many."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
