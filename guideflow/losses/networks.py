"""The networks that losses look through: frozen ones, with their own weights and no others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from guideflow._devices import as_device
from guideflow._process import adopt
from guideflow._require import missing_weights, require, without_progress_bars
from guideflow.errors import InvalidArgument, MissingWeights
from guideflow.losses.sharing import shared
from guideflow.losses.weights import listed, one_line, require_whole, spoiled

_MADE = re.compile(r"(^|\.)(position_ids|num_batches_tracked)$")
"""Buffers that older checkpoints hold, and newer networks make themselves."""


_looked_at: WeakKeyDictionary[nn.Module, tuple[object, ...]] = WeakKeyDictionary()
"""Networks whose weights were found whole as they were read, and where those were then."""


def freeze(network: nn.Module, device: str | torch.device = "cpu") -> nn.Module:
    """Make a network ready to look through: on its device, evaluating, without gradients, in float32 at least.

    Arguments:
        network: Changed in place. One in float64 stays so.
        device: Where it runs.

    Returns:
        The network.
    """
    known = _looked_at.get(network)  # of a gigabyte, looking twice is a sixth of the time that loading takes
    if (known is None or known != _as_it_is(network)) and (why := spoiled(network.state_dict(), zeros=True)):
        raise InvalidArgument(f"The network {type(network).__name__} cannot be looked through: {why}.")
    network = adopt(network.to(as_device(device)))
    return network if precision(network) == torch.float64 else network.float()


def precision(network: nn.Module) -> torch.dtype:
    """Tell in which precision a network computes: float64 if its weights are, else float32."""
    return torch.float64 if any(one.dtype == torch.float64 for one in network.parameters()) else torch.float32


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
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidArgument(f"{file} is no JSON: {error}. Save or download it again.") from error
    if not isinstance(found, dict):
        raise InvalidArgument(f"{file} holds a {type(found).__name__}. Expected an object, {{...}}.")
    return found


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


@shared
def from_transformers(kind: str, source: str | Path, *, extra: str, **options: Any) -> nn.Module:
    """Load a network of transformers, with its own weights and no others.

    Arguments:
        kind: Its class.
        source: A folder, or "owner/name" on the Hub.
        extra: The extra of guideflow that brings transformers.
        **options: Of `from_pretrained`.

    Raises:
        OSError: As transformers does.
        ValueError: As transformers does, or if weights are missing, left over, damaged or of other shapes.
    """
    make = getattr(require("transformers", extra=extra), kind).from_pretrained
    with without_progress_bars(extra):  # without a word on code of the source's own, transformers asks at the terminal
        network: nn.Module = load_exactly(
            make, source, ignore_mismatched_sizes=True, trust_remote_code=False, **options
        )
    return network


def load_exactly(make: Callable[..., Any], source: str | Path, **options: Any) -> Any:
    """Load a network by a `from_pretrained` of transformers or diffusers, with its own weights and no others.

    Raises:
        ValueError: If weights are missing, which would be random instead, or left over, or of other shapes.
    """
    _check_shards(Path(source))
    for file in Path(source).glob("*.safetensors"):
        require_whole(file)
    kinds = _kinds(Path(source))
    if odd := sorted(name for name, kind in kinds.items() if kind[0] == "C"):
        raise ValueError(f"{listed(odd)} in its files are complex numbers, and the network's are not")
    network, report = make(source, output_loading_info=True, **options)
    if lacking := sorted(report["missing_keys"]):
        raise ValueError(f"it has no weights for {listed(lacking)}; such a network would be partly random")
    if other := sorted(report["mismatched_keys"]):
        name, given, wanted = other[0]
        raise ValueError(f"its {name} has shape {tuple(given)} where its configuration asks for {tuple(wanted)}")
    if odd := _whole_numbers(kinds, network):
        raise ValueError(f"{listed(odd)} in its files are whole numbers, and the network's are not")
    if why := spoiled(network.state_dict()):
        raise ValueError(why)
    _looked_at[network] = _as_it_is(network)
    saved_as = getattr(network.config, "architectures", None) or [type(network).__name__]
    if type(network).__name__ in saved_as:  # else the rest is the head of what it was saved as
        if rest := sorted(name for name in report["unexpected_keys"] if not _MADE.search(name)):
            raise ValueError(f"{listed(rest)} in it are no weights of a {type(network).__name__}")
    return network


def _check_shards(folder: Path) -> None:
    """Refuse an index of shards that names what is no file of the folder, or not in it, or in two of them."""
    from safetensors import safe_open

    for index in folder.glob("*.safetensors.index.json"):
        read = read_config(str(folder), index.name) or {}
        shards = read.get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise ValueError(f"its {index.name} does not tell which file each tensor is in")
        if odd := sorted(
            name for name in set(shards.values()) if Path(name).name != name or not (folder / name).is_file()
        ):
            raise ValueError(f"its {index.name} names {listed(odd)}, which it has no such file for")
        if not isinstance(read.get("metadata"), dict):
            raise ValueError(f"its {index.name} has no metadata, which says how large it is")
        there: dict[str, str] = {}
        for name in sorted(set(shards.values())):
            require_whole(folder / name)
            with safe_open(folder / name, framework="pt") as weights:
                for tensor in weights.keys():
                    if tensor in there:
                        raise ValueError(f"{tensor} is both in {there[tensor]} and in {name}")
                    there[tensor] = name
        if lacking := sorted(tensor for tensor, name in shards.items() if there.get(tensor) != name):
            raise ValueError(f"{listed(lacking)} are not in the files that its {index.name} names for them")


def _kinds(folder: Path) -> dict[str, str]:
    """Return in what kind of numbers each tensor of a folder's files is stored, as safetensors calls it."""
    from safetensors import safe_open

    found = dict[str, str]()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            found |= {name: weights.get_slice(name).get_dtype() for name in weights.keys()}
    return found


def _whole_numbers(kinds: Mapping[str, str], network: Any) -> list[str]:
    """Name the weights that are stored as whole numbers, which become others without a word as they are loaded."""
    if getattr(network.config, "quantization_config", None):
        return []
    own = {name for name, _ in network.named_parameters()}
    odd = (name for name, kind in kinds.items() if kind[0] in "IUB" and kind != "BF16")
    return sorted(name for name in odd if {name.split(".", i)[-1] for i in range(3)} & own)


def _as_it_is(network: nn.Module) -> tuple[object, ...]:
    """Return what changes with a network's weights; nothing that equals anything if that cannot be told."""
    held = [one for one in network.state_dict().values() if isinstance(one, Tensor)]
    if any(one.is_inference() for one in held):  # whose changes are not counted
        return (object(),)
    return tuple((one.data_ptr(), one._version) for one in held)
