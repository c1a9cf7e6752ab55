"""`iou`: how far pictures have the layout of their reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from torch import Tensor, nn

from guideflow.metrics import Case, LossMetric
from guideflow_segmentation.loss import Segmentation
from guideflow_segmentation.networks import load_segmenter


@final
class LayoutIou(LossMetric):
    """Overlap of what a network sees in a picture with the layout of its reference.

        m(x) = mean over classes c of  |seen_c and wanted_c| / |seen_c or wanted_c|

    Arguments:
        layout: Whether references are layouts, whose numbers are the classes, rather than pictures.
        network: As the loss `segmentation` takes it. That guides by "lraspp" unless told otherwise: take another one.
        checkpoint: For torchvision's: a file of weights in place of the published ones.
        labels: Names or numbers of the classes that count; by default all that are wanted.
        size: Side or (height, width) at which pictures are segmented; by default the network's own.
        device: Where the network runs.
    """

    name = "iou"

    def __init__(
        self,
        *,
        layout: bool = False,
        network: str | Path | nn.Module = "deeplabv3_resnet50",
        checkpoint: str | Path | None = None,
        labels: str | int | Sequence[str | int] | None = None,
        size: int | Sequence[int] | None = None,
        device: str = "cpu",
    ) -> None:
        self._layout, self._device = layout, device
        self._options: dict[str, Any] = {"network": network, "checkpoint": checkpoint, "labels": labels, "size": size}
        self._network = load_segmenter(network, checkpoint, size=size, device=device).network

    def make(self, case: Case) -> Segmentation:
        """Read the layout, or see it in the reference."""
        wanted = {"layout": case.target} if self._layout else {"reference": case.reference}
        return Segmentation(**wanted, **self._options, device=self._device)  # type: ignore[arg-type]

    def values(self, loss: Any, images: Tensor) -> Tensor:
        """Return the overlaps."""
        found: Tensor = loss.iou(images.to(self._device))
        return found

    def judges(self) -> nn.Module:
        """Return the network."""
        return self._network
