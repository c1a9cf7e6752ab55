"""A segmentation network with what belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from torch import Tensor, nn
from torch.nn import functional as F

from guideflow.errors import InvalidArgument
from guideflow.losses.networks import precision
from guideflow.losses.vision import Preparation

EXTRA: Final = "segmentation"


@dataclass(frozen=True)
class Segmenter:
    """A segmentation network and what belongs to it.

    Arguments:
        network: Prepared images (B, 3, H, W) to logits (B, C, h, w): a tensor, a mapping with "out", or an object
            with `.logits`.
        preparation: How it wants its images.
        names: Of the classes, in order; None if they are not known.
        multiple: Sides of the images must be multiples of this.
        title: What was loaded, to show.
    """

    network: nn.Module
    preparation: Preparation
    names: tuple[str, ...] | None
    multiple: int
    title: str

    def size(self, image: Tensor) -> tuple[int, int]:
        """Return (height, width) to which images like this one are resized; all of it is segmented, or its middle."""
        if self.preparation.size is not None:
            return self.preparation.resized(image.shape[-2], image.shape[-1])
        height, width = (max(1, round(side / self.multiple)) * self.multiple for side in image.shape[-2:])
        return height, width

    def logits(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the logits (B, C, height, width) of images (B, 3, H, W) in [0, 1], brought to a size, or its middle.

        Raises:
            InvalidArgument: If the network returns no logits.
        """
        output: Any = self.network(replace(self.preparation, size=size)(image, precision(self.network)))
        if isinstance(output, Mapping) and "out" in output:
            output = output["out"]
        logits = getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.dim() != 4 or len(logits) != len(image):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InvalidArgument(f"The network returned {shape}. Expected logits ({len(image)}, classes, h, w).")
        size = self.preparation.middle or size
        if logits.shape[-2:] != size:
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return logits
