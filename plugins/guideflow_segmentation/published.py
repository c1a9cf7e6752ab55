"""Segmentation networks of torchvision."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from guideflow._require import require
from guideflow.errors import InvalidArgument, MissingWeights
from guideflow.losses.vision import Preparation
from guideflow_segmentation.loaded import EXTRA, Segmenter

DEFAULT: Final = "lraspp_mobilenet_v3_large"


def from_torchvision(name: str, checkpoint: str | Path | None, names: Sequence[str] | None) -> Segmenter:
    """Load a segmentation network of torchvision with published or the user's weights.

    Arguments:
        name: As torchvision has it, or "lraspp".
        checkpoint: A file of weights in place of the published ones.
        names: Of the classes of the checkpoint, if they are others than those of the published weights.

    Returns:
        What was loaded.

    Raises:
        InvalidArgument: If there is no such network, or the checkpoint does not fit.
        MissingWeights: If the published weights are neither here nor to be had.
    """
    torchvision = require("torchvision", extra=EXTRA)
    name = DEFAULT if name == "lraspp" else name
    known = torchvision.models.list_models(module=torchvision.models.segmentation)
    if name not in known:
        raise InvalidArgument(f"torchvision has no segmentation network {name!r}. It has: {', '.join(known)}.")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    categories = tuple(weights.meta["categories"])
    state = _published(weights) if checkpoint is None else _read_weights(Path(checkpoint).expanduser())
    classes = len(names) if names is not None and checkpoint is not None else len(categories)
    network = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    try:
        network.load_state_dict({key: value for key, value in state.items() if not key.startswith("aux_classifier")})
    except RuntimeError as error:
        why = " ".join(str(error).split())[:200]
        raise InvalidArgument(
            f"{checkpoint} does not fit {name} with {classes} classes: {why}. Name the network it belongs to, and its "
            "classes with names=[...]."
        ) from error
    transforms = weights.transforms()
    side = transforms.resize_size[0]
    preparation = Preparation((side, side), tuple(transforms.mean), tuple(transforms.std))
    return Segmenter(network, preparation, categories if classes == len(categories) else None, 1, name)


def _published(weights: Any) -> Mapping[str, Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(weights.url, progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        file = weights.url.rpartition("/")[2]
        raise MissingWeights(
            f"The weights {file} are not in {folder} and cannot be downloaded ({' '.join(str(error).split())[:120]}). "
            f"Where there is network, download {weights.url} ({weights.meta['_file_size']:.0f} MB), put it into that "
            f"folder or give its path: checkpoint={file!r}."
        ) from error


def _read_weights(file: Path) -> Mapping[str, Tensor]:
    if not file.is_file():
        raise InvalidArgument(f"There is no file {file}, given as checkpoint. Expected a file of weights.")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        return dict(torch.load(file, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, OSError, RuntimeError, TypeError, ValueError, EOFError) as error:
        raise InvalidArgument(f"{file} cannot be read as weights: {' '.join(str(error).split())[:160]}") from error
