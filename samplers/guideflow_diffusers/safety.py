"""The safety checker of diffusers' Stable Diffusion pipelines, as a guard of every solve.

    gf.provenance.install(guideflow_diffusers.safety.safety_guard())

or, for commands and services, `GUIDEFLOW_GUARD=guideflow_diffusers.safety:safety_guard`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from torch import Tensor

from guideflow._process import adopt, own_state
from guideflow._require import missing_weights, require
from guideflow.errors import MissingWeights
from guideflow.images import to_pil
from guideflow.provenance import Guard

CHECKER: Final = "CompVis/stable-diffusion-safety-checker"


def safety_guard(checker: Any = CHECKER, processor: Any = None) -> Guard:
    """Make a guard that withholds what diffusers' checker flags.

    Arguments:
        checker: Hub id or folder of a `StableDiffusionSafetyChecker` in safetensors, or one that is loaded, such as
            `pipeline.safety_checker`.
        processor: The `CLIPImageProcessor` beside it, `pipeline.feature_extractor`; by default from the same place.

    Raises:
        MissingWeights: If they are not there, or not all of them.
    """
    if isinstance(checker, str | Path):
        checker, processor = _load(str(checker), processor)
    network = adopt(checker)

    def flagged(images: Tensor) -> list[bool]:
        import numpy as np
        import torch

        pictures = [to_pil(image) for image in images]
        with own_state(), torch.no_grad():
            seen = processor(pictures, return_tensors="pt").pixel_values.to(network.device, network.dtype)
            # It blacks out what it is given beside; the guard does that itself.
            _, flags = network(clip_input=seen, images=[np.asarray(picture) for picture in pictures])
        return [bool(flag) for flag in flags]

    return Guard(images=flagged)


def _load(where: str, processor: Any) -> tuple[Any, Any]:
    module = require("diffusers.pipelines.stable_diffusion.safety_checker", extra="diffusers")
    transformers = require("transformers", extra="diffusers")
    try:
        network, found = module.StableDiffusionSafetyChecker.from_pretrained(
            where, use_safetensors=True, output_loading_info=True
        )
        processor = processor or transformers.CLIPImageProcessor.from_pretrained(where)
    except OSError as error:
        raise missing_weights(where, "checker", error) from error
    if lacking := sorted(found["missing_keys"]):
        raise MissingWeights(f"{where} lacks {', '.join(lacking[:3])}. Download the safety checker again.")
    return network, processor
