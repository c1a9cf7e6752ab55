"""Image processors of transformers, read into a `Preparation`: what they do is done with gradient, or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from guideflow._require import require
from guideflow.errors import InvalidArgument
from guideflow.losses.networks import read_config
from guideflow.losses.vision import Preparation, given
from guideflow.losses.weights import one_line

FILE: Final = "preprocessor_config.json"

_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # as Pillow numbers them
_SIZES = {"do_resize", "size", "resample", "do_center_crop", "crop_size"}
_VALUES = {"do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_flip_channel_order"}
# About labels, and about what is always so here.
_HARMLESS = {
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "do_reduce_labels",
    "reduce_labels",
    "do_convert_rgb",
    "num_labels",
    "ignore_index",
    "id2label",
    "label2id",
    "include_top",
    "return_tensors",
    "data_format",
    "input_data_format",
    "default_to_square",
    "device",
    "backend",
}


def read_processor(source: str, *, extra: str) -> dict[str, Any] | None:
    """Read the processor of a folder or of a repository on the Hub, with what its class takes where the file is silent.

    Returns:
        What `preparation_from` reads; None if there is no such file.
    """
    found = read_config(source, FILE)
    if found is None or not ("image_processor_type" in found or "feature_extractor_type" in found):
        return found
    kind = require("transformers", extra=extra).AutoImageProcessor
    try:
        whole: dict[str, Any] = json.loads(kind.from_pretrained(source, trust_remote_code=False).to_json_string())
    except (ValueError, OSError, KeyError, TypeError, AttributeError):  # of a class that transformers does not have
        return found
    return {**whole, **found}


def preparation_from(processor: Mapping[str, Any], *, sized: bool = False, normalised: bool = False) -> Preparation:
    """Read what a processor of transformers does, for images in [0, 1], 1/255 of what it speaks of.

    Arguments:
        processor: From `read_processor`.
        sized: Whether the user gives the size in its place.
        normalised: Whether the user gives mean and standard deviation in its place.

    Raises:
        InvalidArgument: If it does something that is not done here, which is named.
    """
    try:
        return _preparation(processor, sized, normalised)
    except InvalidArgument:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:  # of values of other kinds
        why = f"{type(error).__name__}: {one_line(error)}"
        raise InvalidArgument(f"The network's {FILE} cannot be read ({why}). Save or download it again.") from error


def _preparation(processor: Mapping[str, Any], sized: bool, normalised: bool) -> Preparation:
    known = _SIZES | _VALUES | _HARMLESS
    other = {key: value for key, value in processor.items() if key not in known and not key.startswith("_")}
    unread = {key: value for key, value in other.items() if value and (value is True or value != 1)}  # multiples of 1
    if unread and not sized:
        raise InvalidArgument(
            f"The network's {FILE} has {', '.join(f'{key}={value!r}' for key, value in unread.items())}, which is not "
            "done here. Type size=, the side or (height, width) to stretch images to."
        )
    options: dict[str, Any] = {} if sized else _sizes(processor)
    scale = 255 * (processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1)
    # MobileViT's, which flips channels, names a mean that it does not use.
    normalises = "image_mean" in processor and "do_flip_channel_order" not in processor
    values: dict[str, Any] = {}
    if processor.get("do_normalize", normalises) and not normalised:
        if not {"image_mean", "image_std"} <= processor.keys():
            raise InvalidArgument("The network's images are normalised, but not how: type mean=[...], std=[...].")
        values = {name: [value / scale for value in _triple(processor[f"image_{name}"])] for name in ("mean", "std")}
    elif scale != 1:
        values = {"std": [1 / scale] * 3}
    return Preparation(**options | given(**values), bgr=bool(processor.get("do_flip_channel_order", False)))


def _triple(given_: Any) -> Any:
    """Return a value for each channel of one, or of one for all."""
    return [given_] * 3 if isinstance(given_, int | float) else list(given_) * (3 if len(given_) == 1 else 1)


def _sizes(processor: Mapping[str, Any]) -> dict[str, Any]:
    size = processor.get("size") if processor.get("do_resize", True) else None
    resample = processor.get("resample", 2)
    if size is not None and resample not in _INTERPOLATIONS:
        raise InvalidArgument(f"The network's images are resized with resample={resample!r}. Expected 2 or 3.")
    found: dict[str, Any] = {"interpolation": _INTERPOLATIONS.get(resample, "bilinear")}
    crops = processor.get("do_center_crop", "crop_size" in processor)
    if size is not None:
        # One number is the shorter side where a class crops; elsewhere it is a square's.
        found["size"] = _size(size if not isinstance(size, int) or not crops else {"shortest_edge": size}, "size")
    if crops:
        middle = _size(processor.get("crop_size", size), "crop_size")
        found["middle"] = (middle, middle) if isinstance(middle, int) else middle
    return found


def _size(given_: Any, name: str) -> tuple[int, int] | int:
    """Return (height, width), or the shorter side."""
    found = _size_of(given_)
    sides = (found,) if isinstance(found, int) else found or (0,)
    if found is not None and all(0 < side < 10_000 for side in sides):
        return found
    raise InvalidArgument(
        f"The network's {FILE} has {name}={given_!r}, which is not done here. Type size=, the side or (height, width) "
        "to stretch images to."
    )


def _size_of(given_: Any) -> tuple[int, int] | int | None:
    if isinstance(given_, int):
        return given_, given_
    if isinstance(given_, list | tuple) and len(given_) == 2:
        return int(given_[0]), int(given_[1])
    sides = {key: value for key, value in given_.items() if value} if isinstance(given_, Mapping) else {}
    if sides.keys() == {"height", "width"}:
        return int(sides["height"]), int(sides["width"])
    if sides.keys() == {"shortest_edge"}:
        return int(sides["shortest_edge"])
    return None
