"""Samplers of the avatars world: the same families and the same loading as Stable Diffusion, on bundled weights.

`weights/base` is this world's Stable Diffusion: the teacher with autoencoder, tokenizer and text encoder. Every family
lies beside it, PeRFlow, rectified flow and InstaFlow as denoisers like their authors', PCM and Turbo as LoRAs.
Classifier-free guidance is distilled into all of them. Latents are 16x8x8, images 64x64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import guideflow as gf
from guideflow_diffusers import (
    Family,
    instaflow_schedule,
    pcm_schedule,
    perflow_schedule,
    rectified_flow_schedule,
    turbo_schedule,
)

WEIGHTS = Path(__file__).parent / "weights"
BASE = WEIGHTS / "base"
LICENCE = "CC BY 4.0 (trained on ToonHead by Johan Melin)"


def _family(schedule: Callable[..., gf.Schedule], what: str, steps: str, weights: Mapping[str, Path]) -> Family:
    """Make the record of bundled weights, which are not for the user to choose."""
    fixed: dict[str, Any] = dict.fromkeys(("base", "variant", "delta", "style", "lora"))
    return Family(
        schedule,
        weights["checkpoint"],
        base="avatars",
        summary=f"cartoon portraits, 64x64; {what}",
        steps=steps,
        licence=LICENCE,
        fixed={**fixed, "style_base": BASE, "lora_scale": 1.0, **weights},
    )


def _denoiser(name: str) -> dict[str, Path]:
    return {"checkpoint": WEIGHTS / name, "base": BASE}


def _lora(name: str) -> dict[str, Path]:
    return {"checkpoint": BASE, "lora": WEIGHTS / name / "pytorch_lora_weights.safetensors"}


FAMILIES: Mapping[str, Family] = {
    "avatars-perflow": _family(perflow_schedule, "piecewise rectified flow", "4 or more", _denoiser("perflow")),
    "avatars-rectified-flow": _family(
        rectified_flow_schedule, "2-rectified flow", "1 or more", _denoiser("rectified-flow")
    ),
    "avatars-instaflow": _family(instaflow_schedule, "distilled rectified flow", "1", _denoiser("instaflow")),
    "avatars-turbo": _family(turbo_schedule, "adversarial distillation", "1 to 4", _lora("turbo")),
    "avatars-pcm": _family(pcm_schedule, "phased consistency model", "4 or more", _lora("pcm")),
}
