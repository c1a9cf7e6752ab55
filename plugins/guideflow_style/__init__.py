"""`style`: pull images towards the style of other images.

    loss = gf.load_loss("style", reference="waves.jpg")

`backend` chooses what style is: `clip`, as in Universal Guidance; `clip-gram`, as in FreeDoM; `vgg-gram`, as in Gatys
et al.; or `cosine` and `gram` on features of your own network.
"""

from collections.abc import Mapping

import lazy_loader

from guideflow.registry import Entry, hookimpl
from guideflow.registry.weights import Download

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


@hookimpl
def guideflow_losses() -> Mapping[str, Entry]:
    """The loss of this package."""
    return {
        "style": Entry(
            "guideflow_style.loss:Style",
            summary="Distance to the style of pictures, by CLIP or VGG",
            extra="style",
            licence="MIT code; the weights as published (OpenAI's: for research; VGG: CC BY 4.0)",
            needs=("reference",),
            downloads=(Download("timm/resnet50_clip.openai", ("open_clip_model.safetensors",), 408e6),),
        )
    }


@hookimpl
def guideflow_metrics() -> Mapping[str, Entry]:
    """The metric of this package."""
    return {
        "style-distance": Entry(
            "guideflow_style.metric:StyleDistance",
            summary="Distance to the style of the reference, in features of VGG-19",
            extra="style",
            licence="BSD-3-Clause (VGG-19 of torchvision)",
            needs=("reference",),
        )
    }
