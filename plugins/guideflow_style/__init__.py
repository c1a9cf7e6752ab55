"""`style`: pull pictures towards the style of other pictures.

    loss = gf.load_loss("style", reference="waves.jpg")

`backend` chooses what style is: `clip`, as in Universal Guidance; `clip-gram`, as in FreeDoM; `vgg-gram`, as in Gatys
et al.; or `cosine` and `gram` on features of your own network.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from guideflow._lazy import lazy
from guideflow.registry import Entry, hookimpl
from guideflow.registry.weights import Download

if TYPE_CHECKING:
    from guideflow_style.features import ClipTokens as ClipTokens
    from guideflow_style.features import VggFeatures as VggFeatures
    from guideflow_style.loss import Style as Style
    from guideflow_style.loss import gram as gram

__getattr__, __dir__ = lazy(__name__, {"features": ("ClipTokens", "VggFeatures"), "loss": ("Style", "gram")})


@hookimpl
def guideflow_losses() -> Mapping[str, Entry]:
    """The loss of this package."""
    return {
        "style": Entry(
            "guideflow_style.loss:Style",
            summary="Distance to the style of reference pictures: CLIP embedding, CLIP Gram, VGG Gram",
            extra="style",
            licence="MIT code; the weights as published (OpenAI's: for research; VGG: CC BY 4.0)",
            needs=("reference",),
            downloads=(Download("timm/resnet50_clip.openai", ("open_clip_model.safetensors",), 408e6),),
        )
    }
