"""Samplers of the avatars world: the diffusers code path on bundled weights."""

from __future__ import annotations

from pathlib import Path

import torch

from guideflow_diffusers.parts import LatentSampler, load_parts
from guideflow_diffusers.perflow import perflow_schedule

WEIGHTS = Path(__file__).parent / "weights"


def avatars_perflow(
    *, num_steps: int = 4, control: str = "sampler", dtype: str = "float32", device: str = "cpu"
) -> LatentSampler:
    """Cartoon portraits by a PeRFlow with four windows; guidance by prompt is distilled into it.

    Arguments:
        num_steps: 4 or more; the first windows are subdivided.
        control: Control factors: "sampler", "unit" or "official" (see `guideflow_diffusers.perflow`).
        dtype: "float32", "bfloat16" or "float64" of the denoiser.
        device: Where it runs.

    Returns:
        The sampler; its latents are 16x8x8, its pictures 64x64.
    """
    schedule = perflow_schedule(num_steps, control=control)
    return LatentSampler(load_parts(WEIGHTS / "perflow", dtype=getattr(torch, dtype), device=device), schedule)
