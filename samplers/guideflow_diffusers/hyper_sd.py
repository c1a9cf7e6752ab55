"""Hyper-SD: trajectory-segmented consistency distillation (Ren et al., 2024)."""

from __future__ import annotations

import guideflow as gf
from guideflow_diffusers.family import SD15, SDXL, Family
from guideflow_diffusers.pcm import pcm_schedule


def hyper_sd_schedule(num_steps: int = 4, *, unified: bool = False, eta: float | None = None) -> gf.Schedule:
    """Table of Hyper-SD: DDIM steps for the networks of a fixed number of steps, new noise for the unified one.

    The equation is that of `pcm_schedule`, on the grid "ddim" with eta 0, or for the unified network on the grid "tcd".

    Arguments:
        num_steps: 1, 2, 4 or 8, for which there is a LoRA each; 1 to 8 if unified. With networks of your own up to
            1000, or 50 if unified.
        unified: Whether the network is the one-step network, which serves every number of steps.
        eta: Share of new noise in [0, 1]; 1 for the unified network by default, 0 otherwise. Smaller ones give the
            unified network more detail in more steps.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If a number is out of range.

    Source: Ren et al., "Hyper-SD: Trajectory Segmented Consistency Model for Efficient Image Synthesis", 2024.
    """
    return pcm_schedule(num_steps, grid="tcd" if unified else "ddim", eta=float(unified) if eta is None else eta)


HYPER_SD = Family(
    hyper_sd_schedule,
    SD15,
    base="SD 1.5 or SDXL",
    summary="trajectory-segmented distillation",
    steps="1, 2, 4 or 8",
    licence="OpenRAIL++; base CreativeML OpenRAIL-M",
    loras={
        model: {
            k: f"ByteDance/Hyper-SD:Hyper-{name}-{k}step{'s' if k > 1 else ''}-lora.safetensors" for k in (1, 2, 4, 8)
        }
        for model, name in ((SD15, "SD15"), (SDXL, "SDXL"))
    },
    lora_steps=lambda options: 1 if options["unified"] else options["num_steps"],
)
