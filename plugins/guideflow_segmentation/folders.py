"""Segmentation networks from folders and from the Hub: transformers and segmentation_models_pytorch."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path

from torch import nn

from guideflow._require import missing_weights, require
from guideflow.errors import InvalidArgument
from guideflow.losses.networks import from_transformers, read_config
from guideflow.losses.processors import preparation_from, read_processor
from guideflow.losses.vision import Preparation
from guideflow.losses.weights import one_line
from guideflow_segmentation.loaded import EXTRA, Segmenter

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def from_folder_or_hub(given: str | Path, sized: bool, normalised: bool) -> Segmenter:
    """Load what `save_pretrained` of transformers or of segmentation_models_pytorch wrote, here or on the Hub.

    If `sized`, the user says to which size images are brought, and if `normalised`, how they are normalised, so the
    folder need not.
    """
    folder = Path(os.path.expanduser(given))
    if not folder.is_dir() and not _HUB_ID.fullmatch(str(given)):
        raise InvalidArgument(
            f"There is no segmentation network {str(given)!r}. Expected 'lraspp' or another of torchvision, a folder "
            "that `save_pretrained` wrote, or 'owner/name' on the Hub."
        )
    source = str(folder if folder.is_dir() else given)
    config = read_config(source, "config.json")
    if config is None:
        raise InvalidArgument(f"{source} has no config.json. Expected a folder that `save_pretrained` wrote.")
    processor = read_processor(source, extra=EXTRA)
    if processor is None and not normalised:
        raise InvalidArgument(
            f"{source} has no preprocessor_config.json that tells how images are normalised. Type what it was "
            "trained with; with ImageNet's that is mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]."
        )
    labels = config.get("id2label") or read_config(source, "id2label.json") or {}
    try:
        names = tuple(str(labels[key]) for key in sorted(labels, key=int)) or None
        if "_model_class" in config:
            network, multiple = _smp(source)
        else:
            network, multiple = from_transformers("AutoModelForSemanticSegmentation", source, extra=EXTRA), 1
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        why = one_line(error)
        if folder.is_dir():
            raise InvalidArgument(f"{source} cannot be loaded as a segmentation network: {why}") from error
        raise missing_weights(source, "network", why) from error
    preparation = (
        Preparation() if processor is None else preparation_from(processor, sized=sized, normalised=normalised)
    )
    return Segmenter(network, preparation, names, multiple, folder.name if folder.is_dir() else source)


def _smp(source: str) -> tuple[nn.Module, int]:
    smp = require("segmentation_models_pytorch", extra=EXTRA)
    with contextlib.redirect_stdout(io.StringIO()):  # huggingface_hub tells where weights are, each time anew
        network = smp.from_pretrained(source, encoder_weights=None)  # else it downloads weights, to replace them
    divisible = getattr(network, "requires_divisible_input_shape", True)
    return network.float(), int(getattr(network.encoder, "output_stride", 1)) if divisible else 1
