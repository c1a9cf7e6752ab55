"""A pipeline of diffusers that the user has loaded and changed, as a sampler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import guideflow as gf
from guideflow._told import did_you_mean
from guideflow.errors import InvalidArgument

if TYPE_CHECKING:
    from guideflow_diffusers.decoding import DecoderGradient
    from guideflow_diffusers.flow import FlowSampler
    from guideflow_diffusers.latent import LatentSampler

_INSTEAD = {
    "generator": "Noise is drawn from seed=, a number for each image: seed=[0, 1]",
    "latents": "Noise is drawn from seed=, a number for each image: seed=[0, 1]",
    "num_images_per_prompt": "Give as many seeds: seed=[0, 1, 2]",
    "start": "The picture to begin at is image=",
    "mask": "The mask is mask_image=",
    "padding_mask_crop": "Crop image= and mask_image= before",
    "output_type": "`solution.images` is a tensor, and `solution.to_pil()` a list of pictures",
    "callback_on_step_end": "Give callback=, which sees every iteration",
    "prompt_embeds": "Give prompt=, which the pipeline's text encoders read",
    "prompt_2": "Give prompt=, which all text encoders read",
    "negative_prompt_2": "Give negative_prompt=, which all text encoders read",
    "cross_attention_kwargs": "Set the strength of a LoRA by pipe.set_adapters(name, weight)",
    "joint_attention_kwargs": "Set the strength of a LoRA by pipe.set_adapters(name, weight)",
}
"""Options of pipelines that guidance has something else for."""


def from_pipeline(
    pipe: Any,
    *,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    height: int | None = None,
    width: int | None = None,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    eta: float | None = None,
    clip_skip: int | None = None,
    true_cfg_scale: float | None = None,
    max_sequence_length: int | None = None,
    ip_adapter_image: Any = None,
    ip_adapter_image_embeds: Any = None,
    image: Any = None,
    max_timesteps: float | None = None,
    intermediate_timesteps: float | None = None,
    use_resolution_binning: bool | None = None,
    schedule: gf.Schedule | None = None,
    decoder_gradient: str | Path | DecoderGradient = "full",
) -> LatentSampler | FlowSampler:
    """Make a sampler that draws what a loaded pipeline of diffusers draws, with its own networks and scheduler.

    What was done to the pipeline counts: its scheduler, LoRAs, IP-Adapter and textual inversion, dtype and device. The
    sampler shares the weights and leaves the pipeline as it is; make it again after changing the pipeline. The safety
    checker and the watermark are not applied. With `enable_model_cpu_offload`, denoiser and autoencoder are held on
    the device as long as the sampler is.

    Arguments:
        pipe: A `StableDiffusionPipeline`, `StableDiffusionXLPipeline`, `LatentConsistencyModelPipeline`,
            `StableDiffusion3Pipeline`, `FluxPipeline`, `Flux2KleinPipeline`, `ZImagePipeline`, `SanaSprintPipeline` or
            `QwenImagePipeline`.
        num_inference_steps: Number of steps. This and the options down to `use_resolution_binning` are those of
            calling the pipeline, with its own defaults.
        guidance_scale: Classifier-free guidance, or for a denoiser that takes it as an embedding, that.
        height: Of the images in pixels.
        width: Of the images in pixels.
        timesteps: Instead of the number of steps, for schedulers that take them.
        sigmas: Instead of the number of steps, for schedulers that take them.
        eta: Share of new noise in the steps of DDIM and TCD, 0 by default.
        clip_skip: How many of the text encoder's last layers to leave out.
        true_cfg_scale: Classifier-free guidance of FLUX.1 and Qwen-Image, which takes a negative prompt.
        max_sequence_length: Tokens of a prompt that the text encoder of a flow transformer reads.
        ip_adapter_image: Picture for the pipeline's IP-Adapter; a list for several.
        ip_adapter_image_embeds: The same encoded already.
        image: Picture that FLUX.2-klein edits or draws after; a list for several.
        max_timesteps: Angle at which SANA-Sprint starts.
        intermediate_timesteps: Angle at which the second of its two steps starts.
        use_resolution_binning: Whether it draws only the sizes it was trained on.
        schedule: Steps to take instead of the scheduler's, such as `rectified_flow_schedule(4)`.
        decoder_gradient: "full", or for less memory "tiled", or the folder or Hub id of a small decoder.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If the pipeline is of another kind, its scheduler's steps are not affine, or its weights are
            not where gradients need them. The message says what to type.
    """
    from guideflow_diffusers import flow_pipelines as flow
    from guideflow_diffusers.pipeline_parts import Call, require_usable, unet_sampler

    makers: Mapping[str, Callable[[Call], LatentSampler | FlowSampler]] = {
        "StableDiffusionPipeline": unet_sampler,
        "StableDiffusionXLPipeline": unet_sampler,
        "LatentConsistencyModelPipeline": unet_sampler,
        "StableDiffusion3Pipeline": flow.sd3_sampler,
        "FluxPipeline": flow.flux_sampler,
        "Flux2KleinPipeline": flow.flux2_sampler,
        "ZImagePipeline": flow.z_image_sampler,
        "SanaSprintPipeline": flow.sana_sampler,
        "QwenImagePipeline": flow.qwen_image_sampler,
    }
    kind = next((base.__name__ for base in type(pipe).__mro__ if base.__name__ in makers), None)
    if kind is None:
        known = ", ".join(makers)
        one = repr(pipe) if isinstance(pipe, str | Path | None) else f"a {type(pipe).__name__}"
        raise InvalidArgument(
            f"Got {one} as pipe. Expected a loaded {known}. A pipeline that edits pictures becomes one that draws them "
            "by `StableDiffusionPipeline.from_pipe(pipe)`, and `guide(..., image=)` begins at one."
        )
    given = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "height": height,
        "width": width,
        "timesteps": timesteps,
        "sigmas": sigmas,
        "eta": eta,
        "clip_skip": clip_skip,
        "true_cfg_scale": true_cfg_scale,
        "max_sequence_length": max_sequence_length,
        "ip_adapter_image": ip_adapter_image,
        "ip_adapter_image_embeds": ip_adapter_image_embeds,
        "image": image,
        "max_timesteps": max_timesteps,
        "intermediate_timesteps": intermediate_timesteps,
        "use_resolution_binning": use_resolution_binning,
    }
    given = {name: value for name, value in given.items() if value is not None}
    takes = {name: p.default for name, p in inspect.signature(type(pipe).__call__).parameters.items()}
    if unknown := given.keys() - takes.keys():
        raise InvalidArgument(f"A {kind} does not take {', '.join(sorted(unknown))}. Leave it out.")
    require_usable(pipe)
    return makers[kind](Call(pipe, {**takes, **given}, schedule, decoder_gradient))


def guide(
    pipe: Any,
    loss: Any,
    *,
    prompt: str | Sequence[str] = "",
    negative_prompt: str | Sequence[str] | None = None,
    seed: int | Sequence[int] = 0,
    image: Any = None,
    mask_image: Any = None,
    **options: Any,
) -> gf.Solution:
    """Guide a loaded pipeline of diffusers with a loss: `from_pipeline`, then `gf.solve`.

    Arguments:
        pipe: The pipeline; it stays as it is.
        loss: From `gf.load_loss`, or any callable from an image batch in [0, 1] to one number per image.
        prompt: One, or one per image.
        negative_prompt: One, or one per image.
        seed: One, or one per image.
        image: Picture to begin at, with `strength` among the options, one or one per image: the `start` of `gf.solve`.
            The pipeline is one that draws from text; those that edit have the same networks.
        mask_image: White where `image` may change: the `mask` of `gf.solve`.
        options: Of `from_pipeline` (`num_inference_steps`, `guidance_scale`, `height`, ...) and of `gf.solve`
            (`solver`, `max_iterations`, `gradient_mode`, ...).

    Returns:
        The solution. `solution.images` is a tensor, and `solution.to_pil()` what `pipe(...).images` is.

    Raises:
        InvalidArgument: As `from_pipeline` and `gf.solve` do, and for an option that neither takes.
    """
    own, solving = (inspect.signature(function).parameters for function in (from_pipeline, gf.solve))
    for name in options:
        if name not in (*own, *solving) or name in ("pipe", "sampler", "loss", "start", "mask"):
            hint = f" {_INSTEAD[name]}." if name in _INSTEAD else did_you_mean(name, [*own, *solving])
            raise InvalidArgument(f"Got {name}=, which guidance does not take.{hint}")
    sampler = from_pipeline(pipe, **{name: value for name, value in options.items() if name in own})
    rest = {name: value for name, value in options.items() if name not in own}
    rest |= {"start": image, "mask": mask_image}
    return gf.solve(sampler, loss, prompt=prompt, negative_prompt=negative_prompt, seed=seed, **rest)
