"""How big the bases are: what `guideflow info` tells about memory and downloads.

Parameters are counted, and what one evaluation keeps for its gradient is derived, by `benchmarks/footprint.py`, which
evaluates networks of the published configurations on tensors that have a shape and no content.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from guideflow.registry.weights import CARDS, Download, Footprint
from guideflow_diffusers.family import SDXL, Family

_MILLION: Final = 1e6
_LORA: Final = {  # bytes; by base, rank 64 in half precision
    "SD 1.5": 135e6,
    "SDXL": 394e6,
    "tianweiy/DMD2": 787e6,
    "lightx2v/Qwen-Image-Lightning": 1.7e9,
}
_ENCODERS: Final = {"SDXL": 2, "FLUX.1": 2, "SD 3": 3}  # one for all others


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
    "SDXL at 512x512": Size(2567.5, 817.7, 83.7, 675.7, 1491.1, "512x512", 63.2, 526.4, 373.3),
    "FLUX.1": Size(11891.2, 4885.4, 83.8, 8668.6, 5964.8, "1024x1024", 776.8, 2106.1, 1493.7),
    "SD 3.5 large": Size(8056.6, 5580.6, 83.8, 4936.8, 5964.8, "1024x1024", 419.5, 2106.1, 1493.7),
    "SD 3.5 medium": Size(2243.2, 5580.6, 83.8, 2465.0, 5964.8, "1024x1024", 169.8, 2106.1, 1493.7),
    "SD 3 medium": Size(2028.3, 5580.6, 83.8, 1639.8, 5964.8, "1024x1024", 169.8, 2106.1, 1493.7),
    "Z-Image": Size(6154.9, 4022.5, 83.8, 9355.6, 5964.8, "1024x1024", 925.3, 2106.1, 1493.7),
    "FLUX.2 klein 4B": Size(3875.5, 4022.5, 84.0, 5752.4, 5965.4, "1024x1024", 369.8, 2106.6, 1494.2),
    "SANA-Sprint 1.6B": Size(1610.2, 2614.3, 352.7, 1503.9, 5218.6, "1024x1024", 112.0, 1722.8, 1083.2),
    "Qwen-Image": Size(20430.4, 8292.2, 126.9, 9377.5, 6468.3, "1024x1024", 792.5, 2027.7, 1568.4),
}


def footprint(base: str, *, steps: int, evaluations: int = 1) -> Footprint:
    """Estimate the memory of a guided solve of one image; classifier-free guidance takes 2 evaluations a step."""
    denoiser, text_encoders, autoencoder, *_ = size = _SIZES[base]
    numbers = {"weights": denoiser + text_encoders, "text": text_encoders, "fixed": autoencoder}
    numbers |= {name: value for name, value in size._asdict().items() if name.endswith(("step", "decode"))}
    numbers = {name: value * _MILLION for name, value in numbers.items()}
    return Footprint(**numbers, steps=steps, evaluations=evaluations, image=size.image)


def checkpoint_download(repository: str, base: str, *, variant: str = "", half: bool = False) -> Download:
    """Describe the download of a whole checkpoint, with its size by the number of parameters."""
    end = f".{variant}" if variant else ""
    count = next((n for start, n in _ENCODERS.items() if base.startswith(start)), 1)
    encoders = [f"text_encoder{f'_{i}' if i > 1 else ''}" for i in range(1, count + 1)]
    denoiser = "unet" if base.startswith("SD") and not base.startswith("SD 3") else "transformer"
    files = [f"{name}/diffusion_pytorch_model{end}*.safetensors" for name in (denoiser, "vae")]
    files += [f"{name}/model{end}*.safetensors" for name in encoders]
    return Download(repository, tuple(files), sum(_SIZES[base][:3]) * _MILLION * (2 if half else 4))


def family_weights(family: Family) -> dict[str, Any]:
    """Tell `Family.entry` what published weights are downloaded and how much memory a solve takes, both by default."""
    model, base = str(family.checkpoint), _base(family)
    steps = inspect.signature(family).parameters["num_steps"].default
    half = not base.startswith("SD") or base.startswith("SD 3")  # transformers are published in half precision
    downloads = [checkpoint_download(model, base, variant=family.variants.get(model, ""), half=half)]
    if file := family.loras.get(model, {}).get(steps):
        repository, _, name = file.partition(":")
        size = _LORA.get(repository) or _LORA["SDXL" if model == SDXL else "SD 1.5"]
        downloads.append(Download(repository, (name,), size))
    evaluations = 2 if (family.guidance_scale or 1.0) > 1 and not family.told_guidance else 1
    return {"downloads": tuple(downloads), "footprint": footprint(base, steps=steps, evaluations=evaluations)}


def recommended(families: Mapping[str, Family]) -> dict[str, tuple[int, ...]]:
    """Choose for each size of card the largest denoiser that fits, by name the cards it was chosen for.

    Only families whose licence allows commercial use, on conditions or not, are considered; of equals the first.
    """
    found: dict[str, tuple[int, ...]] = {}
    free = {name: family for name, family in families.items() if family.commercial.startswith(("yes", "below"))}
    for card in CARDS:
        fitting = [name for name, family in free.items() if family_weights(family)["footprint"].fit(card)]
        if fitting:
            best = max(fitting, key=lambda name: _SIZES[_base(free[name])].denoiser)
            found[best] = (*found.get(best, ()), card)
    return found


def _base(family: Family) -> str:
    return family.base.partition(" or ")[0]
