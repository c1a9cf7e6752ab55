"""Samplers of the avatars world: the same families and the same loading as Stable Diffusion, on bundled weights.

`weights/base` is this world's Stable Diffusion: the teacher with autoencoder, tokenizer and text encoder. Every family
lies beside it, PeRFlow, rectified flow and InstaFlow as denoisers like their authors', PCM and Turbo as LoRAs.
Guidance by prompt is distilled into all of them. Latents are 16x8x8, pictures 64x64.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from guideflow.sampler import Schedule
from guideflow_diffusers.factory import make_sampler
from guideflow_diffusers.instaflow import instaflow_schedule
from guideflow_diffusers.pcm import pcm_schedule
from guideflow_diffusers.perflow import perflow_schedule
from guideflow_diffusers.rectified_flow import rectified_flow_schedule
from guideflow_diffusers.turbo import turbo_schedule

if TYPE_CHECKING:
    from guideflow_diffusers.parts import LatentSampler

WEIGHTS = Path(__file__).parent / "weights"
BASE = WEIGHTS / "base"
LORA = "pytorch_lora_weights.safetensors"


def avatars_perflow(*, num_steps: int = 4, dtype: str = "float32", device: str = "cpu") -> LatentSampler:
    """Cartoon portraits by a PeRFlow with four windows.

    Arguments:
        num_steps: 4 or more; the first windows are subdivided.
        dtype: "float32", "bfloat16" or "float64" of the denoiser.
        device: Where it runs.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range.
        MissingExtra: If diffusers is not installed.
    """
    return _denoiser("perflow", perflow_schedule(num_steps), dtype, device)


def avatars_rectified_flow(*, num_steps: int = 4, dtype: str = "float32", device: str = "cpu") -> LatentSampler:
    """Cartoon portraits by a 2-rectified flow.

    Arguments:
        num_steps: 1 or more; 4 is the least for clean pictures.
        dtype: "float32", "bfloat16" or "float64" of the denoiser.
        device: Where it runs.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range.
        MissingExtra: If diffusers is not installed.
    """
    return _denoiser("rectified-flow", rectified_flow_schedule(num_steps), dtype, device)


def avatars_instaflow(*, num_steps: int = 1, dtype: str = "float32", device: str = "cpu") -> LatentSampler:
    """Cartoon portraits in one step, by the rectified flow distilled once more.

    Arguments:
        num_steps: 1.
        dtype: "float32", "bfloat16" or "float64" of the denoiser.
        device: Where it runs.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range.
        MissingExtra: If diffusers is not installed.
    """
    return _denoiser("instaflow", instaflow_schedule(num_steps), dtype, device)


def avatars_turbo(
    *,
    num_steps: int = 4,
    method: str = "euler",
    dtype: str = "float32",
    device: str = "cpu",
) -> LatentSampler:
    """Cartoon portraits by adversarial distillation at SD-Turbo's time steps.

    Arguments:
        num_steps: 1 to 4.
        method: "euler" (deterministic), "ancestral" or "sgm" (see `turbo_schedule`).
        dtype: "float32", "bfloat16" or "float64" of the denoiser.
        device: Where it runs.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range.
        MissingExtra: If diffusers is not installed.
    """
    return _lora("turbo", turbo_schedule(num_steps, method=method), dtype, device)


def avatars_pcm(
    *,
    num_steps: int = 4,
    grid: str = "ddim",
    eta: float = 0.0,
    dtype: str = "float32",
    device: str = "cpu",
) -> LatentSampler:
    """Cartoon portraits by a phased consistency model with four phases.

    Arguments:
        num_steps: 4, one per phase; more also work.
        grid: Times: "ddim" or "tcd" (see `pcm_schedule`).
        eta: Share of fresh noise in a step, 0 to 1.
        dtype: "float32", "bfloat16" or "float64" of the denoiser.
        device: Where it runs.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range.
        MissingExtra: If diffusers is not installed.
    """
    return _lora("pcm", pcm_schedule(num_steps, grid=grid, eta=eta), dtype, device)


def _denoiser(family: str, schedule: Schedule, dtype: str, device: str) -> LatentSampler:
    """A denoiser of its own, everything else from the base."""
    return make_sampler(
        schedule, WEIGHTS / family, base=BASE, guidance_scale=1.0, image_size=None, dtype=dtype, device=device
    )


def _lora(family: str, schedule: Schedule, dtype: str, device: str) -> LatentSampler:
    """The base with a LoRA merged in."""
    return make_sampler(
        schedule, BASE, lora=WEIGHTS / family / LORA, guidance_scale=1.0, image_size=None, dtype=dtype, device=device
    )
