"""Segmentation networks from folders and from the Hub: transformers and segmentation_models_pytorch."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from guideflow._require import missing_weights, require
from guideflow.errors import InvalidArgument
from guideflow.losses.networks import from_transformers, one_line, read_config
from guideflow.losses.vision import Preparation, given
from guideflow_segmentation.loaded import EXTRA, Segmenter

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def from_folder_or_hub(given: str | Path, normalised: bool) -> Segmenter:
    """Load what `save_pretrained` of transformers or of segmentation_models_pytorch wrote, here or on the Hub.

    If `normalised`, the user says how images are normalised, so the folder need not.
    """
    folder = Path(given).expanduser()
    if not folder.is_dir() and not _HUB_ID.fullmatch(str(given)):
        raise InvalidArgument(
            f"There is no segmentation network {str(given)!r}. Expected 'lraspp' or another of torchvision, a folder "
            "that `save_pretrained` wrote, or 'owner/name' on the Hub."
        )
    source = str(folder if folder.is_dir() else given)
    config = read_config(source, "config.json")
    if config is None:
        raise InvalidArgument(f"{source} has no config.json. Expected a folder that `save_pretrained` wrote.")
    processor = read_config(source, "preprocessor_config.json")
    if processor is None and not normalised:
        raise InvalidArgument(
            f"{source} has no preprocessor_config.json that tells how images are normalised. Type what it was "
            "trained with; with ImageNet's that is mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]."
        )
    labels = config.get("id2label") or read_config(source, "id2label.json") or {}
    names = tuple(str(labels[key]) for key in sorted(labels, key=int)) or None
    try:
        if "_model_class" in config:
            network, multiple = _smp(source)
        else:
            network, multiple = from_transformers("AutoModelForSemanticSegmentation", source, extra=EXTRA), 1
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        why = one_line(error)
        if folder.is_dir():
            raise InvalidArgument(f"{source} cannot be loaded as a segmentation network: {why}") from error
        raise missing_weights(source, "network", why) from error
    preparation = preparation_from(processor) if processor is not None else Preparation()
    return Segmenter(network, preparation, names, multiple, folder.name if folder.is_dir() else source)


def _smp(source: str) -> tuple[nn.Module, int]:
    smp = require("segmentation_models_pytorch", extra=EXTRA)
    with contextlib.redirect_stdout(io.StringIO()):  # huggingface_hub tells where weights are, each time anew
        network = smp.from_pretrained(source, encoder_weights=None)  # else it downloads weights, to replace them
    divisible = getattr(network, "requires_divisible_input_shape", True)
    return network, int(getattr(network.encoder, "output_stride", 1)) if divisible else 1


_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # as Pillow numbers them


def preparation_from(processor: Mapping[str, Any]) -> Preparation:
    """Read a `preprocessor_config.json` of transformers, for images in [0, 1], 1/255 of what it speaks of.

    They are stretched to its size, and to that of its crop if it crops: a layout is of the whole image, so nothing is
    cut off.
    """
    size = processor.get("size") if processor.get("do_resize", True) else None
    if processor.get("do_center_crop") or ("crop_size" in processor and "do_center_crop" not in processor):
        size = processor.get("crop_size", size)
    if isinstance(size, Mapping):
        size = (size["height"], size["width"]) if "height" in size else size.get("shortest_edge")
    resample = processor.get("resample", 2)
    if size is not None and resample not in _INTERPOLATIONS:
        raise InvalidArgument(f"The network's images are resized with resample={resample!r}. Expected 2 or 3.")
    if processor.get("do_pad") and size is None:
        raise InvalidArgument("The network's images are padded to a size. Type size=, to stretch them to one.")
    scale = 255 * (processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1)
    values = {}
    # MobileViT's, which flips channels, names a mean that it does not use.
    normalises = "image_mean" in processor and "do_flip_channel_order" not in processor
    if processor.get("do_normalize", normalises):
        if not {"image_mean", "image_std"} <= processor.keys():
            raise InvalidArgument("The network's images are normalised, but not how: type mean=[...], std=[...].")
        values = {name: [value / scale for value in processor[f"image_{name}"]] for name in ("mean", "std")}
    elif scale != 1:
        values = {"std": [1 / scale] * 3}
    bgr = bool(processor.get("do_flip_channel_order", False))
    return Preparation(**given(size, **values), interpolation=_INTERPOLATIONS.get(resample, "bilinear"), bgr=bgr)
