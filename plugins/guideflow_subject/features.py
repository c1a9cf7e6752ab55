"""What a subject looks like: crops, and the features that are compared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guideflow._process import adopt
from guideflow._require import require
from guideflow.errors import InvalidArgument, MissingWeights
from guideflow.losses.networks import freeze, from_transformers
from guideflow.losses.processors import preparation_from, read_processor
from guideflow.losses.weights import one_line

Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]

IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
EXTRA = "subject"


def load(kind: str, where: str, option: str) -> Any:
    """Load a network of transformers in float32, frozen, or "AutoTokenizer"; `option` of the loss says where."""
    try:
        if kind == "AutoTokenizer":
            return require("transformers", extra=EXTRA).AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        return freeze(from_transformers(kind, where, extra=EXTRA, dtype=torch.float32))
    except (OSError, ValueError, RuntimeError) as error:  # a folder that holds something else
        there = Path(os.path.expanduser(where)).is_dir()
        fetch = "" if there else f"fetch it once with network by `hf download {where}`, or "
        raise MissingWeights(
            f"{kind} cannot be loaded from {where!r} ({one_line(error, 400).rstrip('.')}): {fetch}give a folder that "
            f"holds all of it: {option}='path/to/folder'."
        ) from error


def read_normalisation(where: str) -> Normalisation:
    """Read how the network of a folder or of a repository wants its crops normalised, ImageNet's where it is silent."""
    try:
        processor = read_processor(where, extra=EXTRA)
    except MissingWeights:  # the network itself is in the cache
        processor = None
    found = None if processor is None else preparation_from(processor, sized=True)
    if found is not None and found.bgr:
        raise InvalidArgument(f"{where} wants blue first (do_flip_channel_order), which is not done here.")
    return IMAGENET if found is None else (found.mean, found.std)


class Features(nn.Module):
    """Crops boxes to a square and embeds them; the same for references and generated images.

    Arguments:
        network: Normalised images (M, 3, size, size) to features: a tensor (M, C), or what DINOv2 of transformers
            returns.
        size: Side of the crops.
        normalisation: Mean and standard deviation that the network wants, for images in [0, 1].
        rectifid: Use the two preprocessings of RectifID's code, which differ between reference and generated image.
    """

    def __init__(
        self, network: nn.Module, size: int, normalisation: Normalisation = IMAGENET, rectifid: bool = False
    ) -> None:
        super().__init__()
        self.network: Any = adopt(network)
        self.size, self.normalisation, self.rectifid = size, normalisation, rectifid

    def crop(self, image: Tensor, index: Tensor, boxes: Tensor) -> Tensor:
        """Cut boxes (M, 4) out of the images `index` (M,), bilinearly and with gradient, (M, 3, size, size)."""
        if self.rectifid:
            return torch.cat([_cut(image[i], box, self.size) for i, box in zip(index.tolist(), boxes, strict=True)])
        ops = require("torchvision.ops", extra=EXTRA)
        regions = torch.cat([index[:, None].to(boxes), boxes], dim=1)
        return ops.roi_align(image, regions, (self.size, self.size), aligned=True)

    def crop_reference(self, image: Tensor, box: Tensor) -> Tensor:
        """Cut the subject out of its reference, (1, 3, size, size)."""
        if not self.rectifid:
            return self.crop(image, torch.zeros(1, dtype=torch.long, device=image.device), box[None])
        left, top, right, bottom = _whole_pixels(box, image)
        cut = image[:, :, top:bottom, left:right]
        # As transformers' BitImageProcessor: shortest side to 256/224 of the crop, then the middle.
        scale = self.size * 256 / 224 / min(cut.shape[-2:])
        shape = [max(self.size, round(side * scale)) for side in cut.shape[-2:]]
        large = F.interpolate(cut, shape, mode="bicubic", antialias=True).clamp(0, 1)
        y, x = ((side - self.size) // 2 for side in shape)
        return large[:, :, y : y + self.size, x : x + self.size]

    def embed(self, crops: Tensor, reference: bool = False) -> Tensor:
        """Return unit-norm embeddings (M, C) of crops."""
        values = CLIP if self.rectifid and not reference else self.normalisation
        mean, std = (crops.new_tensor(v).view(3, 1, 1) for v in values)
        found = self.network((crops - mean) / std)
        if not isinstance(found, Tensor):
            pooled = getattr(found, "pooler_output", None)
            found = found.last_hidden_state[:, 0] if pooled is None else pooled
        return F.normalize(found.flatten(1), dim=1)


def _whole_pixels(box: Tensor, image: Tensor) -> tuple[int, int, int, int]:
    left, top, right, bottom = (int(v) for v in box.tolist())
    height, width = image.shape[-2:]
    left, top = min(left, width - 1), min(top, height - 1)
    return left, top, min(max(right, left + 1), width), min(max(bottom, top + 1), height)


def _cut(image: Tensor, box: Tensor, size: int) -> Tensor:
    left, top, right, bottom = _whole_pixels(box, image)
    return F.interpolate(image[None, :, top:bottom, left:right], (size, size), mode="nearest")
