"""How big the bases are: what `guideflow info` tells about memory and downloads.

Parameters are counted, and what one evaluation keeps for its gradient is derived, by `benchmarks/footprint.py`, which
evaluates networks of the published configurations on tensors that have a shape and no content.
"""

from typing import Final

from guideflow.registry.weights import Download, Footprint

_MILLION: Final = 1e6
# denoiser, text encoders, autoencoder; kept by one evaluation and by one decoding; image; the same checkpointed, the
# decoder as in "windowed" and as in "checkpointed". In millions of numbers.
_SIZES: Final = {
    "SD 1.5": (859.5, 123.1, 83.7, 386.8, 1491.1, "512x512", 64.6, 526.4, 373.3),
    "SD 2.1": (865.9, 340.4, 83.7, 815.8, 3355.0, "768x768", 145.3, 1184.4, 839.9),
    "SD 2.1 at 512x512": (865.9, 340.4, 83.7, 363.7, 1491.1, "512x512", 64.6, 526.4, 373.3),
    "SDXL": (2567.5, 817.7, 83.7, 2664.4, 5964.4, "1024x1024", 253.0, 2105.6, 1493.2),
    "SDXL at 512x512": (2567.5, 817.7, 83.7, 675.7, 1491.1, "512x512", 63.2, 526.4, 373.3),
}
_ENCODERS: Final = {
    "SD 1.5": ("text_encoder",),
    "SD 2.1": ("text_encoder",),
    "SDXL": ("text_encoder", "text_encoder_2"),
}


def footprint(base: str, *, steps: int, evaluations: int = 1) -> Footprint:
    """Estimate the memory of a guided solve.

    Arguments:
        base: "SD 1.5", "SD 2.1" or "SDXL", the last two also "... at 512x512" for turbo models.
        steps: Number of steps.
        evaluations: Of the denoiser in each: 2 with guidance by prompt.

    Returns:
        The footprint, for one image of the base's own size.
    """
    denoiser, text, vae, step, decode, image, small_step, windowed_decode, small_decode = _SIZES[base]
    return Footprint(
        weights=(denoiser + text) * _MILLION,
        step=step * _MILLION,
        steps=steps,
        evaluations=evaluations,
        fixed=vae * _MILLION,
        decode=decode * _MILLION,
        image=image,
        windowed_decode=windowed_decode * _MILLION,
        checkpointed_step=small_step * _MILLION,
        checkpointed_decode=small_decode * _MILLION,
    )


def whole(repository: str, base: str, *, variant: str = "", half: bool = False) -> Download:
    """Describe the download of a whole checkpoint.

    Arguments:
        repository: On the Hub.
        base: "SD 1.5", "SD 2.1" or "SDXL".
        variant: Of its weights.
        half: Whether it is stored in half precision.

    Returns:
        The download, with its size by the number of parameters.
    """
    end = f".{variant}" if variant else ""
    files = [f"{name}/diffusion_pytorch_model{end}*.safetensors" for name in ("unet", "vae")]
    files += [f"{name}/model{end}*.safetensors" for name in _ENCODERS[base]]
    return Download(repository, tuple(files), sum(_SIZES[base][:3]) * _MILLION * (2 if half else 4))


def denoiser(repository: str, base: str, file: str, *, half: bool = False) -> Download:
    """Describe the download of a denoiser, or of delta weights, by itself; arguments as `whole`, with the file."""
    return Download(repository, (file,), _SIZES[base][0] * _MILLION * (2 if half else 4))
