"""Find and load a segmentation network by what the user gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from guideflow._require import require
from guideflow.errors import InvalidArgument
from guideflow.losses.networks import freeze, published_weights
from guideflow.losses.sharing import shared
from guideflow.losses.vision import Preparation, given
from guideflow.losses.weights import one_line, read_weights
from guideflow_segmentation.folders import from_folder_or_hub
from guideflow_segmentation.loaded import EXTRA, Segmenter


@shared
def load_segmenter(
    network: str | Path | nn.Module = "lraspp",
    checkpoint: str | Path | None = None,
    *,
    names: Sequence[str] | None = None,
    size: int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: str = "cpu",
) -> Segmenter:
    """Load a segmentation network, frozen and in float32.

    Arguments:
        network: "lraspp" or another segmentation network of torchvision; a folder that `save_pretrained` of
            transformers or of segmentation_models_pytorch wrote; "owner/name" on the Hub; or a module.
        checkpoint: For torchvision's: a file of weights in place of the published ones.
        names: Of the classes, in place of the network's own.
        size: Side or (height, width) at which images are segmented; by default what the checkpoint says (520 for
            torchvision), or the size of the images.
        mean: Normalisation in place of the checkpoint's, for images in [0, 1]; by default none for a module.
        std: The same.
        device: Where it runs.

    Returns:
        The network with its preparation and class names.

    Raises:
        InvalidArgument: If there is no such network, or the checkpoint does not say how images are normalised.
        MissingWeights: If the weights are not here and cannot be downloaded.
    """
    if checkpoint is not None and (isinstance(network, nn.Module) or not _is_torchvision(str(network))):
        raise InvalidArgument("Got checkpoint=, which only networks of torchvision read. Give the folder as network=.")
    if isinstance(network, nn.Module):
        found = Segmenter(network, Preparation(), None, 1, type(network).__name__)
    elif _is_torchvision(str(network)):
        found = _from_torchvision(str(network), checkpoint, names)
    else:
        found = from_folder_or_hub(network, size is not None, mean is not None and std is not None)
    return replace(
        found,
        network=freeze(found.network, device),
        preparation=replace(found.preparation, **given(size, mean, std)),
        names=found.names if names is None else tuple(names),
    )


def _is_torchvision(name: str) -> bool:
    return name.startswith(("lraspp", "deeplabv3", "fcn")) and not Path(name).is_dir()


def _from_torchvision(name: str, checkpoint: str | Path | None, names: Sequence[str] | None) -> Segmenter:
    """Load a segmentation network of torchvision with published or the user's weights, for classes of these names."""
    torchvision = require("torchvision", extra=EXTRA)
    name = "lraspp_mobilenet_v3_large" if name == "lraspp" else name
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
        network.float().load_state_dict(
            {key: value for key, value in state.items() if not key.startswith("aux_classifier")}
        )
    except RuntimeError as error:
        why = f"{checkpoint} does not fit {name} with {classes} classes (names=): {one_line(error)}"
        raise InvalidArgument(why) from error
    transforms = weights.transforms()
    side = transforms.resize_size[0]
    preparation = Preparation((side, side), tuple(transforms.mean), tuple(transforms.std))
    return Segmenter(network, preparation, categories if classes == len(categories) else None, 1, name)
