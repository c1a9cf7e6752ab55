"""An invisible watermark that says only: generated. In the library blind-watermark, at one size for every picture.

A pattern of 256 bits is written into the brightness and colour of a copy of 128 x 128 pixels: in the first singular
value of each block of 4 x 4 coefficients of its wavelet transform (Haar), of each of Y, U and V. What that changes is
enlarged and added to the picture itself, so the mark does not depend on the size that the picture is found in.

    score = mean over 768 blocks of (+1 where the block's bit is that of the pattern, -1 elsewhere)

A picture without the mark has a score of 0, with a standard deviation of 1 / sqrt(768) = 0.036.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from guideflow._require import require
from guideflow.images import from_pil, to_pil

if TYPE_CHECKING:
    from PIL import Image as PILImage

SMALLEST: Final = 128
"""Sides of smaller pictures hold too little of it."""

FOUND: Final = 0.18
"""Score from which on the mark counts as found: five standard deviations."""

_STRENGTH: Final = 36
"""Step by which the singular values are rounded; about 2 grey levels of a block."""


def mark(image: Tensor) -> Tensor:
    """Return a picture, (3, height, width) in [0, 1], of 8 bits, with the mark; sides of at least `SMALLEST`.

    Raises:
        MissingExtra: if blind-watermark is not installed.
    """
    from PIL import Image

    picture = to_pil(image)
    copy, core = _copy(picture), _core()
    core.read_img_arr(copy)
    core.read_wm(_pattern())
    change = (core.embed() - copy)[..., ::-1].astype(np.float32)
    method = Image.Resampling.BICUBIC
    layers = [np.asarray(Image.fromarray(change[..., c]).resize(picture.size, method)) for c in range(3)]
    pixels = (np.asarray(picture) + np.stack(layers, -1)).round().clip(0, 255).astype(np.uint8)
    return from_pil(Image.fromarray(pixels))[0]


def score(image: Tensor) -> float:
    """Tell how far a picture of any size has the mark, from -1 to 1; `FOUND` or more is taken for it.

    Raises:
        MissingExtra: if blind-watermark is not installed.
    """
    core, wanted = _core(), _pattern()
    core.wm_size = len(wanted)
    bits = 2 * core.extract_raw(_copy(to_pil(image))) - 1
    return float((bits * (2 * np.resize(wanted, bits.shape[1]) - 1)).mean())


def _copy(picture: PILImage.Image) -> Any:
    from PIL import Image

    method = Image.Resampling.BOX if max(picture.size) > SMALLEST else Image.Resampling.BICUBIC
    return np.asarray(picture.resize((SMALLEST, SMALLEST), method))[..., ::-1].copy()  # as OpenCV has it


def _library() -> Any:
    """Import blind-watermark without what its import does to the process: it sets how processes are started."""
    import multiprocessing

    start = multiprocessing.set_start_method
    multiprocessing.set_start_method = lambda *given, **more: None
    try:
        return require("blind_watermark", extra="provenance")
    finally:
        multiprocessing.set_start_method = start


def _core() -> Any:
    library = _library()
    library.bw_notes.close()  # it would greet
    core = library.WaterMarkCore(password_img=1)
    core.d1, core.d2 = _STRENGTH, 0
    return core


@cache
def _pattern() -> Any:
    """As many ones as zeros, so that a picture of one colour has no score; one bit less than blocks, as it must be."""
    bits = torch.arange(255) % 2
    return bits[torch.randperm(255, generator=torch.Generator().manual_seed(20261126))].numpy()
