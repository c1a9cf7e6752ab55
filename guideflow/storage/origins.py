"""What a solve was made with: versions, the machine, and the checksum of every network's weights."""

import hashlib
import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from guideflow import registry
from guideflow._networks import networks
from guideflow._precision import settings
from guideflow.errors import GuideflowError
from guideflow.storage.recipes import plugins

_BESIDE: Final = (
    "diffusers",
    "transformers",
    "torchvision",
    "onnx",
    "insightface",
    "open_clip_torch",
    "numpy",
    "pillow",
)
"""Packages whose version may decide over the last bit of a picture, where they are installed."""

_known: WeakKeyDictionary[nn.Module, tuple[object, str]] = WeakKeyDictionary()


def versions(configs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a solve was made with, and which package each of its parts came from."""
    try:
        ours = version("guideflow")
    except PackageNotFoundError:  # a checkout on the path; what was solved is saved all the same
        ours = "not installed"
    found: dict[str, Any] = {"guideflow": ours, "torch": torch.__version__, "python": platform.python_version()}
    for name in _BESIDE:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found if configs is None else found | {"plugins": _origins(configs)}


def machine(device: torch.device) -> dict[str, Any]:
    """Tell what may change the rounding of a solve, beside the versions: the processor and how it is used."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    found = {"device": f"{device.type}, {name}", "instructions": capability, "threads": torch.get_num_threads()}
    found["matmul"] = "highest"  # as `own_state` computes; what was solved before it saw to that may say otherwise
    return found | ({"settings": chosen} if (chosen := settings()) else {})


def weights(part: object) -> dict[str, str]:
    """Return the SHA-256 of each network of a sampler or loss, by where it is: of names, types, shapes and values.

    As they compute: with LoRAs merged and in the dtype that was asked for.
    """
    return {path or type(network).__name__: _checksum(network) for path, network in networks(part)}


def _checksum(network: nn.Module) -> str:
    held = network.state_dict(keep_vars=True).items()  # of what is compiled, by the names it had before
    tensors = {name.replace("_orig_mod.", ""): one for name, one in held if isinstance(one, Tensor)}
    state = tuple((one.data_ptr(), one._version) for one in tensors.values() if not one.is_inference())
    known = _known.get(network)
    if known is not None and known[0] == state:
        return known[1]
    digest = hashlib.sha256()
    for name, one in sorted(tensors.items()):
        digest.update(f"{name} {one.dtype} {tuple(one.shape)}\n".encode())
        if one.device.type != "meta":  # moved to memory as it is needed; only its shape can be told
            plain = one.detach().cpu().contiguous().flatten().view(torch.uint8) if one.numel() else torch.empty(0)
            digest.update(plain.numpy().data)
    _known[network] = state, digest.hexdigest()
    return digest.hexdigest()


def _origins(configs: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for kind, config in configs.items():
        for part in plugins(config):
            with suppress(GuideflowError):  # a file of the user's, or uninstalled since
                plugin = registry.find(kind, part["name"]).plugin
                found[part["name"]] = f"{plugin.distribution} {plugin.version}"
    return found
