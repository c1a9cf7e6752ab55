"""The networks that losses look through: frozen ones, and where their weights are read from."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guideflow._process import adopt
from guideflow._require import missing_weights, require, without_progress_bars
from guideflow.errors import InvalidArgument, MissingWeights


def freeze(network: nn.Module, device: str | torch.device = "cpu") -> nn.Module:
    """Make a network ready to look through: on its device, evaluating, without gradients, in float32 at least.

    Arguments:
        network: Changed in place. One in float64 stays so.
        device: Where it runs.

    Returns:
        The network.
    """
    network = adopt(network.to(device))
    return network if precision(network) == torch.float64 else network.float()


def precision(network: nn.Module) -> torch.dtype:
    """Tell in which precision a network computes: float64 if its weights are, else float32."""
    return torch.float64 if any(one.dtype == torch.float64 for one in network.parameters()) else torch.float32


def one_line(error: BaseException, length: int = 200) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split())[:length]


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """Read a file of weights, safetensors or what `torch.load` reads without running code.

    Raises:
        InvalidArgument: If there is no such file, or it is none.
    """
    file = Path(file).expanduser()
    if not file.is_file():
        raise InvalidArgument(f"There is no file {file}, given as checkpoint. Expected a file of weights.")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(file))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what it refuses next
            return dict(torch.load(file, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, OSError, RuntimeError, TypeError, ValueError, EOFError) as error:
        if "weights_only" in str(error):
            raise unsafe(file, error, "Save its state dict by itself, where you trust it.") from error
        raise InvalidArgument(f"{file} cannot be read as weights: {one_line(error, 160)}") from error


def unsafe(where: str | Path, error: Exception, cure: str) -> InvalidArgument:
    """Make the error about weights that `torch.load` refuses because they may run code."""
    kind = "a TorchScript archive" if "TorchScript" in str(error) else "a pickle of more than tensors, or damaged"
    return InvalidArgument(
        f"{where} cannot be read as weights without running code of whoever made it: it is {kind}. Expected "
        f"safetensors, or a state dict that torch.save wrote. {cure}"
    )


def read_config(source: str, name: str, *, files: Sequence[str] = ()) -> dict[str, Any] | None:
    """Read a small JSON file of a folder or of a repository on the Hub, which has to have `files`; None if absent."""
    file = Path(source) / name
    if not Path(source).is_dir():
        hub = require("huggingface_hub", extra="all")
        try:
            file = Path(hub.hf_hub_download(source, name))
        except Exception as error:  # the client raises its own, the system's and its HTTP library's, by version
            absent = isinstance(error, hub.errors.EntryNotFoundError)
            if absent and not isinstance(error, hub.errors.LocalEntryNotFoundError):  # the latter: no network
                return None
            raise missing_weights(source, "network", error, files) from error
    if not file.is_file():
        return None
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InvalidArgument(f"{file} is no JSON: {error}. Save or download it again.") from error


def published_weights(url: str, megabytes: float) -> dict[str, Tensor]:
    """Return weights that torchvision publishes, from torch.hub's cache or downloaded to it."""
    try:
        return dict(torch.hub.load_state_dict_from_url(url, progress=False, check_hash=True, weights_only=True))
    except (OSError, RuntimeError) as error:
        folder, file = Path(torch.hub.get_dir()) / "checkpoints", url.rpartition("/")[2]
        raise MissingWeights(
            f"The weights {file} are not in {folder} and cannot be downloaded ({one_line(error, 120)}). Where there is "
            f"network, download {url} ({megabytes:.0f} MB), put it into that folder or give its path: "
            f"checkpoint={file!r}."
        ) from error


def from_transformers(kind: str, source: str | Path, *, extra: str, **options: Any) -> nn.Module:
    """Load a network of transformers, with all of its weights.

    Arguments:
        kind: Its class.
        source: A folder, or "owner/name" on the Hub.
        extra: The extra of guideflow that brings transformers.
        **options: Of `from_pretrained`.

    Raises:
        OSError: As transformers does.
        ValueError: As transformers does, or if some weights are missing: such a network would be partly random.
    """
    make = getattr(require("transformers", extra=extra), kind).from_pretrained
    with without_progress_bars(extra):  # without a word on code of the source's own, transformers asks at the terminal
        network, report = make(source, output_loading_info=True, trust_remote_code=False, **options)
    if lacking := sorted(report["missing_keys"]):
        raise ValueError(f"it has no weights for {lacking[0]}; such a network would be partly random")
    loaded: nn.Module = network
    return loaded
