"""How big the bases are: what `guideflow info` tells about memory and downloads.

Parameters are counted, and what one evaluation keeps for its gradient is derived, by `benchmarks/footprint.py`, which
evaluates networks of the published configurations on tensors that have a shape and no content.
"""

from __future__ import annotations

import inspect
from typing import Any, Final, NamedTuple

from guideflow.registry.weights import Download, Footprint
from guideflow_diffusers.family import SDXL, Family

_MILLION: Final = 1e6
_LORA: Final = {"SD 1.5": 135e6, "SDXL": 394e6}  # bytes, rank 64 in half precision


class Size(NamedTuple):
    """A base in millions of numbers: parameters, then what is kept for a gradient at the size of its images."""

    denoiser: float
    text_encoders: float
    autoencoder: float
    step: float
    decode: float
    image: str
    checkpointed_step: float
    windowed_decode: float
    checkpointed_decode: float


_SIZES: Final = {
    "SD 1.5": Size(859.5, 123.1, 83.7, 386.8, 1491.1, "512x512", 64.6, 526.4, 373.3),
    "SD 2.1": Size(865.9, 340.4, 83.7, 815.8, 3355.0, "768x768", 145.3, 1184.4, 839.9),
    "SD 2.1 at 512x512": Size(865.9, 340.4, 83.7, 363.7, 1491.1, "512x512", 64.6, 526.4, 373.3),
    "SDXL": Size(2567.5, 817.7, 83.7, 2664.4, 5964.4, "1024x1024", 253.0, 2105.6, 1493.2),
    "FLUX.1": Size(11891.2, 4885.4, 83.8, 8668.6, 5964.8, "1024x1024", 776.8, 2105.8, 1493.4),
    "SDXL at 512x512": Size(2567.5, 817.7, 83.7, 675.7, 1491.1, "512x512", 63.2, 526.4, 373.3),
}


def footprint(base: str, *, steps: int, evaluations: int = 1) -> Footprint:
    """Estimate the memory of a guided solve of one image; classifier-free guidance takes 2 evaluations a step."""
    denoiser, text_encoders, autoencoder, *_ = size = _SIZES[base]
    numbers = {"weights": denoiser + text_encoders, "fixed": autoencoder}
    numbers |= {name: value for name, value in size._asdict().items() if name.endswith(("step", "decode"))}
    numbers = {name: value * _MILLION for name, value in numbers.items()}
    return Footprint(**numbers, steps=steps, evaluations=evaluations, image=size.image)


def checkpoint_download(repository: str, base: str, *, variant: str = "", half: bool = False) -> Download:
    """Describe the download of a whole checkpoint, with its size by the number of parameters."""
    end = f".{variant}" if variant else ""
    encoders = ("text_encoder", "text_encoder_2") if base.startswith(("SDXL", "FLUX")) else ("text_encoder",)
    denoiser = "transformer" if base.startswith("FLUX") else "unet"
    files = [f"{name}/diffusion_pytorch_model{end}*.safetensors" for name in (denoiser, "vae")]
    files += [f"{name}/model{end}*.safetensors" for name in encoders]
    return Download(repository, tuple(files), sum(_SIZES[base][:3]) * _MILLION * (2 if half else 4))


def family_weights(family: Family) -> dict[str, Any]:
    """Tell `Family.entry` what published weights are downloaded and how much memory a solve takes, both by default."""
    model, base = str(family.checkpoint), family.base.partition(" or ")[0]
    steps = inspect.signature(family).parameters["num_steps"].default
    half = base.startswith("FLUX")  # published in bfloat16
    downloads = [checkpoint_download(model, base, variant=family.variants.get(model, ""), half=half)]
    if model in family.loras:
        repository, _, file = family.loras[model][steps].partition(":")
        downloads.append(Download(repository, (file,), _LORA["SDXL" if model == SDXL else "SD 1.5"]))
    evaluations = 2 if (family.guidance_scale or 1.0) > 1 else 1
    return {"downloads": tuple(downloads), "footprint": footprint(base, steps=steps, evaluations=evaluations)}
