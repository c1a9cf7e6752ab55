"""`segmentation`: pull pictures towards a layout.

    loss = gf.load_loss("segmentation", layout="layout.png", network="my-segformer")

The layout is drawn as a map of class numbers, or taken from a reference picture. Networks: torchvision's, any of
segmentation_models_pytorch or transformers from a folder or the Hub, or a module of yours.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from guideflow._lazy import lazy
from guideflow.registry import Entry, hookimpl

if TYPE_CHECKING:
    from guideflow_segmentation.layout import read_layout as read_layout
    from guideflow_segmentation.loaded import Segmenter as Segmenter
    from guideflow_segmentation.loss import Segmentation as Segmentation
    from guideflow_segmentation.networks import load_segmenter as load_segmenter

__getattr__, __dir__ = lazy(
    __name__,
    {"layout": ("read_layout",), "loaded": ("Segmenter",), "loss": ("Segmentation",), "networks": ("load_segmenter",)},
)


@hookimpl
def guideflow_losses() -> Mapping[str, Entry]:
    """The loss of this package."""
    return {
        "segmentation": Entry(
            "guideflow_segmentation.loss:Segmentation",
            summary="Cross-entropy to a drawn layout, or to the layout of a reference picture",
            extra="segmentation",
            licence="BSD (torchvision's default); that of the checkpoint otherwise, often research only",
            needs=("layout or reference",),
        )
    }
