"""`style-distance`: distance to the style of a reference, by features that did not guide."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, final

from torch import Tensor, nn

from guideflow.metrics import Case, LossMetric
from guideflow_style.loss import Style


@final
class StyleDistance(LossMetric):
    """Distance of a picture to the style of its reference, as the loss `style` defines it; 0 for the reference itself.

    Arguments:
        backend: "vgg-gram" (Gatys et al.), "clip" or "clip-gram"; "cosine" or "gram" for a network of your own. The
            loss guides by "clip" unless told otherwise: take another one.
        network: A name or module, as the loss `style` takes it.
        checkpoint: Tag or file of the weights of the backend's network.
        size: Side to which pictures are brought; by default what the network was trained on.
        device: Where the network runs.
    """

    name = "style-distance"
    better: ClassVar[str] = "lower"

    def __init__(
        self,
        *,
        backend: str = "vgg-gram",
        network: str | Path | nn.Module | None = None,
        checkpoint: str | Path | None = None,
        size: int | None = None,
        device: str = "cpu",
    ) -> None:
        grey = Tensor([0.5]).expand(3, 64, 64)  # replaced by the reference of each case
        self._style = Style(grey, backend=backend, network=network, checkpoint=checkpoint, size=size, device=device)
        self._device = device

    def make(self, case: Case) -> Style:
        """Take the style of the reference."""
        return self._style.towards(case.reference)

    def values(self, loss: Any, images: Tensor) -> Tensor:
        """Return the distances."""
        found: Tensor = loss(images.to(self._device))
        return found
