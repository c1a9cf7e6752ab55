"""Samplers of the avatars world: the same families and the same loading as Stable Diffusion, on bundled weights.

`weights/base` is this world's Stable Diffusion: the teacher with autoencoder, tokenizer and text encoder. Every family
lies beside it as a LoRA, with classifier-free guidance distilled in, and `weights/preview` as a small decoder of the
same latents. Latents are 8x16x16, images 128x128.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import guideflow as gf
from guideflow_avatars.words import check_words
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
PREVIEW = WEIGHTS / "preview"
LICENCE = "CC BY 4.0 (trained on ToonHead by Johan Melin)"


def _family(name: str, schedule: Callable[..., gf.Schedule], what: str, steps: str) -> Family:
    """Make the record of bundled weights, which are not for the user to choose."""
    fixed: dict[str, Any] = dict.fromkeys(("base", "variant", "delta", "style"))
    lora = WEIGHTS / name / "pytorch_lora_weights.safetensors"
    return Family(
        schedule,
        BASE,
        base="avatars",
        summary=f"cartoon portraits, 128x128; {what}",
        steps=steps,
        licence=LICENCE,
        check_prompts=check_words,
        fixed={
            **fixed,
            "checkpoint": BASE,
            "style_base": BASE,
            "lora": lora,
            "lora_scale": 1.0,
            "preview_decoder": PREVIEW,
        },
    )


FAMILIES: Mapping[str, Family] = {
    f"avatars-{name}": _family(name, *more)
    for name, *more in (
        ("perflow", perflow_schedule, "piecewise rectified flow", "4 or more"),
        ("rectified-flow", rectified_flow_schedule, "2-rectified flow", "1 or more"),
        ("instaflow", instaflow_schedule, "distilled rectified flow", "1"),
        ("turbo", turbo_schedule, "adversarial distillation", "1 to 4"),
        ("pcm", pcm_schedule, "phased consistency model", "4 or more"),
    )
}
