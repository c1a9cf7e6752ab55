"""Samplers made of diffusers parts: a denoiser, an autoencoder and text encoders from an ordinary diffusers checkpoint.

One file per family: a function that makes the family's `Schedule`, and factories that load the published networks or
any checkpoint of the same layout. Loading happens when a factory is called; importing this package is light.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from guideflow.registry import Entry, hookimpl
from guideflow.registry.weights import Download
from guideflow_diffusers import hyper_sd, instaflow, lcm, lightning, pcm, perflow, rectified_flow, turbo
from guideflow_diffusers.factory import SD15, SDXL
from guideflow_diffusers.hyper_sd import hyper_sd_schedule as hyper_sd_schedule
from guideflow_diffusers.instaflow import instaflow_schedule as instaflow_schedule
from guideflow_diffusers.lcm import lcm_schedule as lcm_schedule
from guideflow_diffusers.lightning import lightning_schedule as lightning_schedule
from guideflow_diffusers.pcm import pcm_schedule as pcm_schedule
from guideflow_diffusers.perflow import perflow_schedule as perflow_schedule
from guideflow_diffusers.rectified_flow import rectified_flow_schedule as rectified_flow_schedule
from guideflow_diffusers.sizes import footprint, whole
from guideflow_diffusers.turbo import turbo_schedule as turbo_schedule

_NON_COMMERCIAL = "CC BY-NC 4.0"
_STABILITY = "Stability AI Non-Commercial Research Community"
_OPEN_RAIL, _OPEN_RAIL_XL = "CreativeML OpenRAIL-M", "OpenRAIL++"
_LORA_SIZE = {SD15: 135e6, SDXL: 394e6}  # rank 64, half precision


def _entry(
    factory: Callable[..., Any], base: str, family: str, steps: str, licence: str, *downloads: Download
) -> Entry:
    """Fill an entry in; what is counted for the footprint is what the factory does by default."""
    defaults = {name: option.default for name, option in inspect.signature(factory).parameters.items()}
    evaluations = 2 if (defaults["guidance_scale"] or 1.0) > 1 else 1
    return Entry(
        factory,
        summary=family,
        extra="diffusers",
        licence=licence,
        needs=("prompt",),
        base=base.partition(" at ")[0],
        steps=steps,
        downloads=downloads,
        footprint=footprint(base.partition(" or ")[0], steps=defaults["num_steps"], evaluations=evaluations),
    )


def _with_lora(base: str, loras: Mapping[str, Mapping[int, str]]) -> tuple[Download, Download]:
    """Describe the download of a base model and of the LoRA for four steps."""
    repository, _, file = loras[base][4].partition(":")
    return whole(base, "SD 1.5" if base == SD15 else "SDXL"), Download(repository, (file,), _LORA_SIZE[base])


@hookimpl
def guideflow_samplers() -> Mapping[str, Entry]:
    """Samplers of the Stable Diffusion family."""
    straight, phased = "piecewise rectified flow", "phased consistency model"
    adversarial = "adversarial diffusion distillation"
    return {
        "perflow": _entry(
            perflow.perflow, "SD 1.5", straight, "4 or more", _NON_COMMERCIAL, whole(perflow.SD15, "SD 1.5")
        ),
        "perflow-sd21": _entry(
            perflow.perflow_sd21, "SD 2.1", straight, "4 or more", _NON_COMMERCIAL, whole(perflow.SD21, "SD 2.1")
        ),
        "perflow-sdxl": _entry(
            perflow.perflow_sdxl,
            "SDXL",
            straight,
            "4 or more",
            _NON_COMMERCIAL,
            whole(perflow.SDXL, "SDXL", variant="v0-fix"),
        ),
        "rectified-flow": _entry(
            rectified_flow.rectified_flow,
            "SD 1.5",
            "2-rectified flow",
            "1 or more",
            _NON_COMMERCIAL,
            whole(rectified_flow.CHECKPOINT, "SD 1.5"),
        ),
        "instaflow": _entry(
            instaflow.instaflow,
            "SD 1.5",
            "distilled rectified flow",
            "1",
            _NON_COMMERCIAL,
            whole(instaflow.CHECKPOINT, "SD 1.5"),
        ),
        "sd-turbo": _entry(
            turbo.sd_turbo, "SD 2.1 at 512x512", adversarial, "1 to 4", _STABILITY, whole(turbo.SD_TURBO, "SD 2.1")
        ),
        "sdxl-turbo": _entry(
            turbo.sdxl_turbo, "SDXL at 512x512", adversarial, "1 to 4", _STABILITY, whole(turbo.SDXL_TURBO, "SDXL")
        ),
        "pcm": _entry(
            pcm.pcm,
            "SD 1.5",
            phased,
            "2, 4, 8 or 16",
            f"not stated; base {_OPEN_RAIL}",
            *_with_lora(SD15, pcm.LORAS),
        ),
        "pcm-sdxl": _entry(
            pcm.pcm_sdxl,
            "SDXL",
            phased,
            "2, 4, 8 or 16",
            f"not stated; base {_OPEN_RAIL_XL}",
            *_with_lora(SDXL, pcm.LORAS),
        ),
        "lcm": _entry(
            lcm.lcm,
            "SD 1.5 or SDXL",
            "latent consistency model",
            "1 to 50",
            f"{_OPEN_RAIL_XL}; base {_OPEN_RAIL}",
            *_with_lora(SD15, lcm.LORAS),
        ),
        "sdxl-lightning": _entry(
            lightning.sdxl_lightning,
            "SDXL",
            "adversarial progressive distillation",
            "1, 2, 4 or 8",
            _OPEN_RAIL_XL,
            *_with_lora(SDXL, lightning.LORAS),
        ),
        "hyper-sd": _entry(
            hyper_sd.hyper_sd,
            "SD 1.5 or SDXL",
            "trajectory-segmented distillation",
            "1, 2, 4 or 8",
            f"{_OPEN_RAIL_XL}; base {_OPEN_RAIL}",
            *_with_lora(SD15, hyper_sd.LORAS),
        ),
    }
