"""The flow-matching models there are: their classes in diffusers, and what is done differently for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from guideflow._require import require
from guideflow.errors import MissingExtra
from guideflow_diffusers.flow import FlowAdapter
from guideflow_diffusers.flux2 import Flux2Adapter, encode_flux2
from guideflow_diffusers.qwen_image import QwenImageAdapter, encode_qwen_image
from guideflow_diffusers.sana import SanaAdapter, encode_sana
from guideflow_diffusers.sd3 import SD3Adapter, encode_sd3
from guideflow_diffusers.text import Condition
from guideflow_diffusers.z_image import ZImageAdapter, encode_z_image


@dataclass(frozen=True)
class FlowModel:
    """One model.

    Arguments:
        transformer: Its class in diffusers.
        vae: The class of its autoencoder.
        pipeline: The class of its pipeline, which encodes prompts.
        adapter: How the transformer is called.
        encode: How the pipeline's `encode_prompt` is called.
        embedded: Whether the transformer is told the guidance scale, instead of being evaluated twice.
    """

    transformer: str
    vae: str
    pipeline: str
    adapter: Callable[..., FlowAdapter]
    encode: Callable[..., Condition]
    embedded: bool = False

    def made(self, what: str) -> Any:
        """Return one of the three classes, by the name of the attribute."""
        return from_diffusers(getattr(self, what))


MODELS: Final[Mapping[str, FlowModel]] = {
    "sd3": FlowModel("SD3Transformer2DModel", "AutoencoderKL", "StableDiffusion3Pipeline", SD3Adapter, encode_sd3),
    "z-image": FlowModel("ZImageTransformer2DModel", "AutoencoderKL", "ZImagePipeline", ZImageAdapter, encode_z_image),
    "flux2": FlowModel(
        "Flux2Transformer2DModel", "AutoencoderKLFlux2", "Flux2KleinPipeline", Flux2Adapter, encode_flux2
    ),
    "sana": FlowModel(
        "SanaTransformer2DModel", "AutoencoderDC", "SanaSprintPipeline", SanaAdapter, encode_sana, embedded=True
    ),
    "qwen-image": FlowModel(
        "QwenImageTransformer2DModel",
        "AutoencoderKLQwenImage",
        "QwenImagePipeline",
        QwenImageAdapter,
        encode_qwen_image,
    ),
}


def from_diffusers(name: str) -> Any:
    """Return a class of diffusers, which older versions may not have."""
    diffusers = require("diffusers", extra="diffusers")
    found = getattr(diffusers, name, None)
    if found is None:
        raise MissingExtra(f"diffusers {diffusers.__version__} has no {name} yet. Type: pip install -U diffusers")
    return found
