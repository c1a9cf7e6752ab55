"""`segmentation`: pull images towards a layout.

    loss = gf.load_loss("segmentation", layout="layout.png", network="my-segformer")

The layout is drawn as a map of class numbers, or taken from a reference image. Networks: torchvision's, any of
segmentation_models_pytorch or transformers from a folder or the Hub, or a module of yours.
"""

from collections.abc import Mapping

import lazy_loader

from guideflow.registry import Entry, hookimpl

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


@hookimpl
def guideflow_losses() -> Mapping[str, Entry]:
    """The loss of this package."""
    return {
        "segmentation": Entry(
            "guideflow_segmentation.loss:Segmentation",
            summary="Cross-entropy to a drawn layout, or to a reference's",
            extra="segmentation",
            licence="BSD (torchvision's default); that of the checkpoint otherwise, often research only",
            needs=("layout or reference",),
        )
    }


@hookimpl
def guideflow_metrics() -> Mapping[str, Entry]:
    """The metric of this package."""
    return {
        "iou": Entry(
            "guideflow_segmentation.metric:LayoutIou",
            summary="Overlap with the layout of the reference",
            extra="segmentation",
            licence="BSD-3-Clause (torchvision's)",
            needs=("reference",),
        )
    }
