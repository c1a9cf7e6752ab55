"""What a sampler takes out of a loaded pipeline with a flow-matching transformer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

import guideflow as gf
from guideflow.errors import InvalidArgument
from guideflow_diffusers.decoding import compression
from guideflow_diffusers.flow import FlowAdapter, FlowSampler
from guideflow_diffusers.flux import FluxAdapter
from guideflow_diffusers.flux2 import Flux2Adapter, encode_flux2, encode_pictures
from guideflow_diffusers.flux2_klein import klein_mu
from guideflow_diffusers.pipeline_parts import Call, autoencoder_view, execution_device
from guideflow_diffusers.qwen_image import QwenImageAdapter, encode_qwen_image
from guideflow_diffusers.replica import frozen_view
from guideflow_diffusers.sana import SanaAdapter, encode_sana
from guideflow_diffusers.sana_sprint import angles_schedule
from guideflow_diffusers.sd3 import SD3Adapter, encode_sd3
from guideflow_diffusers.text import Condition
from guideflow_diffusers.text_parts import encode_by
from guideflow_diffusers.z_image import ZImageAdapter, encode_z_image

Sizes = tuple[int, int]


def flux_sampler(call: Call) -> FlowSampler:
    """Make the sampler of FLUX.1 pipelines, which hand an even grid to the scheduler."""
    adapter = FluxAdapter(call.options["guidance_scale"] if call.pipe.transformer.config.guidance_embeds else None)
    return _flow_sampler(call, adapter, _encode_flux, call.options["true_cfg_scale"], _even_unless_told(call))


def sd3_sampler(call: Call) -> FlowSampler:
    """Make the sampler of Stable Diffusion 3 pipelines, which leave the grid to the scheduler."""
    return _flow_sampler(call, SD3Adapter(), encode_sd3, call.options["guidance_scale"])


def z_image_sampler(call: Call) -> FlowSampler:
    """Make the sampler of Z-Image pipelines, whose guidance scale is 1 less than elsewhere."""
    return _flow_sampler(call, ZImageAdapter(), encode_z_image, call.options["guidance_scale"] + 1, _even(call))


def flux2_sampler(call: Call) -> FlowSampler:
    """Make the sampler of FLUX.2-klein pipelines, which ignore the guidance scale where the network is distilled."""
    pipe, options, given = call.pipe, call.options, call.options["image"]
    vae = autoencoder_view(pipe.vae, execution_device(pipe.transformer))
    adapter = Flux2Adapter(() if given is None else encode_pictures(vae, given, "image"))
    scale = 1.0 if pipe.config.is_distilled else options["guidance_scale"]
    size = None
    if adapter.references:  # the first one's, as in the pipeline
        height, width = (2 * compression(vae) * side for side in adapter.references[0].shape[-2:])
        size = height, width

    def mu(tokens: int) -> float:
        return klein_mu(options["num_inference_steps"], tokens)

    return _flow_sampler(call, adapter, encode_flux2, scale, _even_unless_told(call), mu=mu, size=size)


def qwen_image_sampler(call: Call) -> FlowSampler:
    """Make the sampler of Qwen-Image pipelines."""
    if call.pipe.transformer.config.guidance_embeds:
        raise InvalidArgument("A Qwen-Image that takes the guidance scale as an embedding is not supported.")
    return _flow_sampler(call, QwenImageAdapter(), encode_qwen_image, call.options["true_cfg_scale"], _even(call))


def sana_sampler(call: Call) -> FlowSampler:
    """Make the sampler of SANA-Sprint pipelines, whose scheduler counts in angles."""
    pipe, options = call.pipe, call.options
    size = call.size(1024)
    if options["use_resolution_binning"]:
        if pipe.transformer.config.sample_size != 32:
            raise InvalidArgument("The pipeline's network is not of 1024 pixels. Give use_resolution_binning=False.")
        from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import ASPECT_RATIO_1024_BIN

        near = pipe.image_processor.classify_height_width_bin(*size, ratios=ASPECT_RATIO_1024_BIN)
        if tuple(near) != size:
            raise InvalidArgument(
                f"The pipeline draws {size[0]}x{size[1]} as {near[0]}x{near[1]} and resizes. Give height={near[0]}, "
                f"width={near[1]}, or use_resolution_binning=False."
            )
    adapter = SanaAdapter(options["guidance_scale"])
    return _flow_sampler(call, adapter, encode_sana, 1.0, schedule=call.schedule or _angles(pipe.scheduler, options))


def _angles(scheduler: Any, options: Mapping[str, Any]) -> gf.Schedule:
    """Read the steps of diffusers' SCM scheduler, which replace the noise."""
    if type(scheduler).__name__ != "SCMScheduler" or scheduler.config.prediction_type != "trigflow":
        raise InvalidArgument(
            f"Got {type(scheduler).__name__} in a SanaSprintPipeline, whose network speaks in angles. Expected an "
            "SCMScheduler. Type: pipe.scheduler = SCMScheduler()"
        )
    own = type(scheduler).from_config(scheduler.config)
    if options["timesteps"] is not None:
        raise InvalidArgument(
            "A SanaSprintPipeline cannot hand timesteps to its scheduler. Give max_timesteps instead."
        )
    given = {name: options[name] for name in ("num_inference_steps", "max_timesteps", "intermediate_timesteps")}
    if given["num_inference_steps"] != 2:
        given["intermediate_timesteps"] = None  # the pipeline wants to be told so
    own.set_timesteps(**given)
    angles = own.timesteps.double().tolist()
    return angles_schedule(angles[:-1])


def _even(call: Call) -> list[float] | None:
    """Return the grid that a pipeline hands to its scheduler: the user's, or an even one."""
    sigmas, steps = call.options["sigmas"], call.options["num_inference_steps"]
    return sigmas if sigmas is not None else torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64).tolist()


def _even_unless_told(call: Call) -> list[float] | None:
    """Return the same, of pipelines that leave it to a scheduler with `use_flow_sigmas`."""
    own = call.options["sigmas"] is None and call.pipe.scheduler.config.get("use_flow_sigmas")
    return None if own else _even(call)


def _flow_sampler(
    call: Call,
    adapter: FlowAdapter,
    encode: Callable[..., Condition],
    guidance_scale: float,
    sigmas: Sequence[float] | None = None,
    *,
    mu: Callable[[int], float] | None = None,
    size: Sizes | None = None,
    schedule: gf.Schedule | None = None,
) -> FlowSampler:
    """Make a sampler: `mu` is how far the grid moves with the number of tokens, `size` what stands for none given."""
    pipe, options = call.pipe, call.options
    given = [name for name in ("ip_adapter_image", "ip_adapter_image_embeds") if options.get(name) is not None]
    if given or any(getattr(pipe.transformer, name, None) is not None for name in ("encoder_hid_proj", "image_proj")):
        raise InvalidArgument("IP-Adapters of transformers are not supported. Type: pipe.unload_ip_adapter()")
    device, factor = execution_device(pipe.transformer), compression(pipe.vae)
    # Some versions of diffusers count the patch of FLUX in `vae_scale_factor`.
    own = getattr(pipe, "default_sample_size", 1024 // pipe.vae_scale_factor) * pipe.vae_scale_factor
    height, width = call.size(size or own)
    token = 2 * factor
    tokens = (height // token) * (width // token)
    if schedule is None:
        shift = mu(tokens) if mu else _shift(pipe.scheduler.config, tokens)
        grid = {} if sigmas is None else {"sigmas": sigmas}
        schedule = call.steps(mu=shift, **grid)
    return FlowSampler(
        frozen_view(pipe.transformer, device=device),
        autoencoder_view(pipe.vae, device),
        adapter,
        schedule,
        partial(encode_by, pipe, encode, options, device),
        guidance_scale=guidance_scale,
        image_size=(height, width),
        decoder_gradient=call.decoder_gradient,
    )


def _shift(config: Mapping[str, Any], tokens: int) -> float | None:
    """Return how far a grid moves with the number of tokens, along a line; None if it does not."""
    if not config.get("use_dynamic_shifting"):
        return None
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    found: float = low + (high - low) * (tokens - few) / (many - few)
    return found


def _encode_flux(
    pipe: Any,
    device: torch.device,
    options: Mapping[str, Any],
    prompts: Sequence[str],
    negative_prompts: Sequence[str] | None,
    *,
    guided: bool,
) -> Condition:
    """Let the pipeline encode prompts; without negative ones there is no negative side, as in the pipeline."""
    sides = [prompts, negative_prompts] if guided and negative_prompts is not None else [prompts]
    more = {"device": device, "max_sequence_length": options["max_sequence_length"]}
    made = [pipe.encode_prompt(list(side), **more) for side in sides]
    (text, pooled, *_), (negative, negative_pooled, *_) = made if len(made) > 1 else (*made, (None, None))
    return Condition(text, negative, pooled, negative_pooled)
