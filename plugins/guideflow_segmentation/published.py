"""Segmentation networks of torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from guideflow._require import require
from guideflow.errors import InvalidArgument
from guideflow.losses.networks import one_line, published_weights, read_weights
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
    state = (
        published_weights(weights.url, weights.meta["_file_size"]) if checkpoint is None else read_weights(checkpoint)
    )
    classes = len(names) if names is not None and checkpoint is not None else len(categories)
    network = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    try:
        network.load_state_dict({key: value for key, value in state.items() if not key.startswith("aux_classifier")})
    except RuntimeError as error:
        raise InvalidArgument(
            f"{checkpoint} does not fit {name} with {classes} classes: {one_line(error)}. Name the network it belongs "
            "to, and its classes with names=[...]."
        ) from error
    transforms = weights.transforms()
    side = transforms.resize_size[0]
    preparation = Preparation((side, side), tuple(transforms.mean), tuple(transforms.std))
    return Segmenter(network, preparation, categories if classes == len(categories) else None, 1, name)
