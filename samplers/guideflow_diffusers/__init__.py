"""Samplers made of diffusers parts: a denoiser, an autoencoder and text encoders from an ordinary diffusers checkpoint.

One file per family: a function that makes the family's `Schedule`, and a `Family` record of the networks it was
published with. Loading happens when a family is called; importing this package is light.
"""

from collections.abc import Mapping

from guideflow.registry import Entry, hookimpl
from guideflow_diffusers.dmd2 import DMD2_SDXL
from guideflow_diffusers.dmd2 import dmd2_schedule as dmd2_schedule
from guideflow_diffusers.family import Family as Family
from guideflow_diffusers.flux2_klein import FLUX2_KLEIN
from guideflow_diffusers.flux2_klein import klein_schedule as klein_schedule
from guideflow_diffusers.flux_schnell import FLUX_SCHNELL
from guideflow_diffusers.flux_schnell import flux_schedule as flux_schedule
from guideflow_diffusers.hyper_sd import HYPER_SD
from guideflow_diffusers.hyper_sd import hyper_sd_schedule as hyper_sd_schedule
from guideflow_diffusers.lcm import LCM
from guideflow_diffusers.lcm import lcm_schedule as lcm_schedule
from guideflow_diffusers.lightning import SDXL_LIGHTNING
from guideflow_diffusers.lightning import lightning_schedule as lightning_schedule
from guideflow_diffusers.pcm import PCM, PCM_SDXL
from guideflow_diffusers.pcm import pcm_schedule as pcm_schedule
from guideflow_diffusers.pcm_sd3 import PCM_SD3
from guideflow_diffusers.pcm_sd3 import pcm_sd3_schedule as pcm_sd3_schedule
from guideflow_diffusers.perflow import PERFLOW, PERFLOW_SD21, PERFLOW_SDXL
from guideflow_diffusers.perflow import perflow_schedule as perflow_schedule
from guideflow_diffusers.pipelines import from_pipeline as from_pipeline
from guideflow_diffusers.pipelines import guide as guide
from guideflow_diffusers.qwen_lightning import QWEN_IMAGE_LIGHTNING
from guideflow_diffusers.qwen_lightning import qwen_lightning_schedule as qwen_lightning_schedule
from guideflow_diffusers.rectified_flow import INSTAFLOW, RECTIFIED_FLOW
from guideflow_diffusers.rectified_flow import instaflow_schedule as instaflow_schedule
from guideflow_diffusers.rectified_flow import rectified_flow_schedule as rectified_flow_schedule
from guideflow_diffusers.sana_sprint import SANA_SPRINT
from guideflow_diffusers.sana_sprint import sana_schedule as sana_schedule
from guideflow_diffusers.sd35_turbo import SD35_LARGE_TURBO, SD35_MEDIUM_TURBO
from guideflow_diffusers.sd35_turbo import sd3_schedule as sd3_schedule
from guideflow_diffusers.sizes import family_weights, recommended
from guideflow_diffusers.tcd import TCD_SD15, TCD_SDXL
from guideflow_diffusers.tcd import tcd_schedule as tcd_schedule
from guideflow_diffusers.turbo import SD_TURBO, SDXL_TURBO
from guideflow_diffusers.turbo import turbo_schedule as turbo_schedule
from guideflow_diffusers.z_image_turbo import Z_IMAGE_TURBO
from guideflow_diffusers.z_image_turbo import z_image_schedule as z_image_schedule

FAMILIES: dict[str, Family] = {
    "perflow": PERFLOW,
    "perflow-sd21": PERFLOW_SD21,
    "perflow-sdxl": PERFLOW_SDXL,
    "rectified-flow": RECTIFIED_FLOW,
    "instaflow": INSTAFLOW,
    "sd-turbo": SD_TURBO,
    "sdxl-turbo": SDXL_TURBO,
    "pcm": PCM,
    "pcm-sdxl": PCM_SDXL,
    "lcm": LCM,
    "sdxl-lightning": SDXL_LIGHTNING,
    "hyper-sd": HYPER_SD,
    "dmd2-sdxl": DMD2_SDXL,
    "tcd-sd15": TCD_SD15,
    "tcd-sdxl": TCD_SDXL,
}

FLOWS: dict[str, Family] = {
    "flux-schnell": FLUX_SCHNELL,
    "flux2-klein": FLUX2_KLEIN,
    "z-image-turbo": Z_IMAGE_TURBO,
    "sana-sprint": SANA_SPRINT,
    "sd35-large-turbo": SD35_LARGE_TURBO,
    "sd35-medium-turbo": SD35_MEDIUM_TURBO,
    "pcm-sd3": PCM_SD3,
    "qwen-image-lightning": QWEN_IMAGE_LIGHTNING,
}


@hookimpl
def guideflow_samplers() -> Mapping[str, Entry]:
    """Samplers of the Stable Diffusion family, and of flow matching."""
    known = FAMILIES | FLOWS
    cards = recommended(known)
    return {
        name: family.entry(**family_weights(family), default_for=cards.get(name, ())) for name, family in known.items()
    }


@hookimpl
def guideflow_metrics() -> Mapping[str, Entry]:
    """The metric of this package."""
    return {
        "denoise-error": Entry(
            "guideflow_diffusers.denoising:DenoiseError",
            summary="The generator's own error in predicting noise on the finished picture: how natural it is",
            extra="diffusers",
            licence="that of the sampler",
            needs=("prompt", "diffusers sampler"),
        )
    }
