"""`clip`: pull images towards a text or towards other images, as CLIP sees them.

    loss = gf.load_loss("clip", text="a watercolour of a harbour")

The networks are those of open_clip: published ones by name, local checkpoints, or a module of yours.
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
        "clip": Entry(
            "guideflow_clip.loss:Clip",
            summary="Distance to a text or to pictures, as CLIP sees them",
            extra="clip",
            licence="MIT code; the weights as published (OpenAI's: for research)",
            needs=("text or reference",),
            downloads=(Download("timm/vit_base_patch32_clip_224.openai", ("open_clip_model.safetensors",), 605e6),),
        )
    }


@hookimpl
def guideflow_metrics() -> Mapping[str, Entry]:
    """The metric of this package."""
    return {
        "prompt-agreement": Entry(
            "guideflow_clip.metric:PromptAgreement",
            summary="Cosine between a picture and its prompt, as CLIP sees them",
            extra="clip",
            licence="MIT code; the weights as published (OpenAI's: for research)",
            needs=("prompt",),
            downloads=(Download("timm/vit_base_patch32_clip_224.openai", ("open_clip_model.safetensors",), 605e6),),
        )
    }
