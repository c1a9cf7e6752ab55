"""PeRFlow: piecewise rectified flow, one straight line per time window (Yan et al., 2024)."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING

from guideflow.errors import InvalidArgument
from guideflow.sampler import Schedule
from guideflow_diffusers.factory import make_sampler
from guideflow_diffusers.noise import alpha_bar
from guideflow_diffusers.steps import TRAIN_STEPS, require_word

if TYPE_CHECKING:
    from guideflow_diffusers.parts import LatentSampler

SD15 = "hansyan/perflow-sd15-dreamshaper"
SD21 = "hansyan/perflow-sd21-artius"
SDXL = "hansyan/perflow-sdxl-dreamshaper"


def perflow_schedule(num_steps: int = 4, *, prediction: str = "diff_eps", windows: int = 4) -> Schedule:
    """Table of a PeRFlow sampler.

    The network's epsilon joins the ends of its window, z_e = lam z_s + eta epsilon. From time t_c in [t_e, t_s] to t',

        D = lam (t_c - t_s) + (t_e - t_c),   r = (t' - t_c) / (t_e - t_c)
        z' = [1 + r (lam (t_e - t_s) / D - 1)] z + r eta (t_e - t_c) / D epsilon

    with g^2 = alpha_bar_s / alpha_bar_e, lam = 1 / g and

        diff_eps   eta = -sqrt(1 - g^2) / g                                       independent noise at both ends
        ddim_eps   eta = sqrt(1 - alpha_bar_e) - lam sqrt(1 - alpha_bar_s)        one noise for both ends

    A `velocity` network goes straight: z' = z + (t' - t_c) / 1000 v.

    The gain of a window is -eta / lam, the share of noise at its start, for `diff_eps`; 1 for the others. RectifID's
    script has the first window's, 0.95796674, in all of them: `gf.Anchored(gain=0.95796674)`.

    Arguments:
        num_steps: At least one per window; further ones subdivide the first windows.
        prediction: What the network was trained to give: "diff_eps" (SD 1.5 checkpoints), "velocity" (SD 2.1) or
            "ddim_eps" (SDXL).
        windows: Number of equal time windows the network was trained with.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If there are fewer steps than windows, or an unknown word is given.

    Source: Yan et al., "PeRFlow: Piecewise Rectified Flow as Universal Plug-and-Play Accelerator", 2024, section 3.
    """
    require_word("prediction", prediction, ("diff_eps", "ddim_eps", "velocity"))
    if windows < 1:
        raise InvalidArgument(f"Got windows = {windows}. Expected at least one; the published networks have windows=4.")
    if num_steps < windows:
        raise InvalidArgument(
            f"Got num_steps = {num_steps} for a PeRFlow with {windows} windows. Expected at least one step per window: "
            f"num_steps={windows} or more."
        )
    bounds = [TRAIN_STEPS * (windows - i) // windows for i in range(windows + 1)]
    times: list[int] = []
    state: list[float] = []
    output: list[float] = []
    gain: list[float] = []
    for window, (start, end) in enumerate(itertools.pairwise(bounds)):
        lam, eta = _window(start, end, prediction)
        pieces = num_steps // windows + (window < num_steps % windows)
        grid = [int(start + (end - start) * i / pieces) for i in range(pieces + 1)]
        for now, following in itertools.pairwise(grid):
            times.append(now)
            if prediction == "velocity":
                state.append(1.0)
                output.append((following - now) / TRAIN_STEPS)
                gain.append(1.0)
                continue
            denominator = lam * (now - start) + (end - now)
            r = (following - now) / (end - now)
            state.append(1 + r * (lam * (end - start) / denominator - 1))
            output.append(r * eta * (end - now) / denominator)
            gain.append(-eta / lam if prediction == "diff_eps" else 1.0)
    return Schedule(
        times=tuple(times),
        state=tuple(state),
        output=tuple(output),
        gain=tuple(gain),
    )


def _window(start: int, end: int, prediction: str) -> tuple[float, float]:
    """Return lam and eta of a window."""
    signal_start, signal_end = _alpha_bar_at(start), _alpha_bar_at(end)
    gamma = math.sqrt(signal_start / signal_end)
    lam = 1 / gamma
    if prediction != "ddim_eps":
        return lam, -math.sqrt(1 - gamma**2) / gamma
    noise_start, noise_end = math.sqrt(1 - signal_start), math.sqrt(1 - signal_end)
    return lam, noise_end - lam * noise_start


def _alpha_bar_at(time: int) -> float:
    """PeRFlow counts time from 1 to 1000; index 0 of the table also serves time 0."""
    return alpha_bar()[max(time - 1, 0)]


def perflow(
    *,
    checkpoint: str | Path = SD15,
    num_steps: int = 4,
    guidance_scale: float = 3.0,
    image_size: tuple[int, int] | int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    decoder_gradient: str | Path = "full",
    windows: int = 4,
    base: str | Path | None = None,
    variant: str | None = None,
    delta: str | Path | None = None,
) -> LatentSampler:
    """PeRFlow on Stable Diffusion 1.5, the sampler of RectifID's main experiments.

    To accelerate another SD 1.5 model, give it as `checkpoint` and the published difference of weights as `delta`:
    `perflow(checkpoint="Lykon/dreamshaper-8", delta="hansyan/perflow-sd15-delta-weights", variant="v0-1")`.

    Arguments:
        checkpoint: Hub id or local folder of the accelerated model, or of the model that `delta` accelerates.
        num_steps: 4 or more: at least one per window.
        guidance_scale: Guidance by prompt; 1 or less switches it off. 3 in RectifID; the authors of PeRFlow use 4.5
            with 4 steps, 6 with 6, 7.5 with 8.
        image_size: (height, width) in pixels or one number; 512 is what the network was trained on.
        dtype: "float32", "bfloat16", "float16" or "float64" of the denoiser; states stay in float32.
        device: Where it runs.
        decoder_gradient: "full", "tiled" or a small decoder (see `with_decoder_gradient`).
        windows: Number of time windows the network was trained with.
        base: Checkpoint to take everything from but the denoiser.
        variant: Which files of a Hub repository to take.
        delta: Difference of weights to add to the denoiser.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range, or the checkpoint cannot be read.
        MissingWeights: If something is on the Hub and cannot be fetched.
        MissingExtra: If diffusers is not installed.
    """
    return make_sampler(
        perflow_schedule(num_steps, windows=windows),
        checkpoint,
        guidance_scale=guidance_scale,
        image_size=image_size,
        dtype=dtype,
        device=device,
        decoder_gradient=decoder_gradient,
        base=base,
        variant=variant,
        delta=delta,
    )


def perflow_sd21(
    *,
    checkpoint: str | Path = SD21,
    num_steps: int = 4,
    guidance_scale: float = 4.5,
    image_size: tuple[int, int] | int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    decoder_gradient: str | Path = "full",
    windows: int = 4,
    variant: str | None = None,
) -> LatentSampler:
    """PeRFlow on Stable Diffusion 2.1, whose network predicts velocities.

    Arguments:
        checkpoint: Hub id or local folder.
        num_steps: 4 or more: at least one per window.
        guidance_scale: Guidance by prompt; 1 or less switches it off. 4.5 in RectifID.
        image_size: (height, width) in pixels or one number; 768 is what the network was trained on.
        dtype: "float32", "bfloat16", "float16" or "float64" of the denoiser; prefer "bfloat16" to "float16", in which
            the attention of SD 2.1 overflows.
        device: Where it runs.
        decoder_gradient: "full", "tiled" or a small decoder (see `with_decoder_gradient`).
        windows: Number of time windows the network was trained with.
        variant: Which files of a Hub repository to take.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range, or the checkpoint cannot be read.
        MissingWeights: If something is on the Hub and cannot be fetched.
        MissingExtra: If diffusers is not installed.
    """
    return make_sampler(
        perflow_schedule(num_steps, prediction="velocity", windows=windows),
        checkpoint,
        guidance_scale=guidance_scale,
        image_size=image_size,
        dtype=dtype,
        device=device,
        decoder_gradient=decoder_gradient,
        variant=variant,
    )


def perflow_sdxl(
    *,
    checkpoint: str | Path = SDXL,
    num_steps: int = 4,
    guidance_scale: float = 1.0,
    image_size: tuple[int, int] | int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    decoder_gradient: str | Path = "full",
    windows: int = 4,
    variant: str | None = None,
) -> LatentSampler:
    """PeRFlow on Stable Diffusion XL.

    Arguments:
        checkpoint: Hub id or local folder.
        num_steps: 4 or more: at least one per window.
        guidance_scale: Guidance by prompt; 1 or less switches it off, as in RectifID. The authors of PeRFlow use 1.5
            to 2.5 with 6 steps.
        image_size: (height, width) in pixels or one number; 1024 is what the network was trained on.
        dtype: "float32", "bfloat16", "float16" or "float64" of the denoiser; states and autoencoder stay in float32.
        device: Where it runs.
        decoder_gradient: "full", "tiled" or a small decoder (see `with_decoder_gradient`).
        windows: Number of time windows the network was trained with.
        variant: Which files of a Hub repository to take; "v0-fix" for the authors' own, which have no others.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range, or the checkpoint cannot be read.
        MissingWeights: If something is on the Hub and cannot be fetched.
        MissingExtra: If diffusers is not installed.
    """
    if variant is None and str(checkpoint).startswith("hansyan/perflow-sdxl"):
        variant = "v0-fix"
    return make_sampler(
        perflow_schedule(num_steps, prediction="ddim_eps", windows=windows),
        checkpoint,
        guidance_scale=guidance_scale,
        image_size=image_size,
        dtype=dtype,
        device=device,
        decoder_gradient=decoder_gradient,
        variant=variant,
    )
