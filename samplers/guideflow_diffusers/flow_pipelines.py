"""What a sampler takes out of a loaded pipeline with a flow-matching transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from guideflow.errors import InvalidArgument
from guideflow_diffusers.flow import FlowAdapter, FlowSampler
from guideflow_diffusers.flux import FluxAdapter
from guideflow_diffusers.pipeline_parts import Call, autoencoder_view, execution_device, send_back
from guideflow_diffusers.replica import frozen_view
from guideflow_diffusers.sd3 import SD3Adapter
from guideflow_diffusers.text import Condition


def flux_sampler(call: Call) -> FlowSampler:
    """Make the sampler of FLUX.1 pipelines, which hand an even grid to the scheduler."""
    options, transformer = call.options, call.pipe.transformer
    steps, sigmas = options["num_inference_steps"], options["sigmas"]
    if sigmas is None and not call.pipe.scheduler.config.get("use_flow_sigmas"):
        sigmas = torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64).tolist()
    adapter = FluxAdapter(options["guidance_scale"] if transformer.config.guidance_embeds else None)
    return _flow_sampler(call, adapter, _encode_flux, options["true_cfg_scale"], sigmas=sigmas)


def sd3_sampler(call: Call) -> FlowSampler:
    """Make the sampler of Stable Diffusion 3 pipelines."""
    return _flow_sampler(call, SD3Adapter(), _encode_sd3, call.options["guidance_scale"])


def _flow_sampler(call: Call, adapter: FlowAdapter, encode: Any, guidance_scale: float, **grid: Any) -> FlowSampler:
    pipe, options = call.pipe, call.options
    given = [name for name in ("ip_adapter_image", "ip_adapter_image_embeds") if options[name] is not None]
    if given or any(getattr(pipe.transformer, name, None) is not None for name in ("encoder_hid_proj", "image_proj")):
        raise InvalidArgument("IP-Adapters of transformers are not supported. Type: pipe.unload_ip_adapter()")
    device, size = execution_device(pipe.transformer), call.size(pipe.default_sample_size * pipe.vae_scale_factor)
    # Some versions of diffusers count the patch of FLUX in `vae_scale_factor`.
    token = adapter.patch * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    tokens = (size[0] // token) * (size[1] // token)
    return FlowSampler(
        frozen_view(pipe.transformer, device=device),
        autoencoder_view(pipe.vae, device),
        adapter,
        call.steps(mu=_shift(pipe.scheduler.config, tokens), **grid),
        partial(encode, pipe, device, options),
        guidance_scale=guidance_scale,
        image_size=size,
        decoder_gradient=call.decoder_gradient,
    )


def _shift(config: Mapping[str, Any], tokens: int) -> float | None:
    """Return how far a grid moves with the number of tokens, along a line; None if it does not."""
    if not config.get("use_dynamic_shifting"):
        return None
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return low + (high - low) * (tokens - few) / (many - few)


@torch.no_grad()
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
    send_back(pipe)
    (text, pooled, *_), (negative, negative_pooled, *_) = made if len(made) > 1 else (*made, (None, None))
    return Condition(text, negative, pooled, negative_pooled)


@torch.no_grad()
def _encode_sd3(
    pipe: Any,
    device: torch.device,
    options: Mapping[str, Any],
    prompts: Sequence[str],
    negative_prompts: Sequence[str] | None,
    *,
    guided: bool,
) -> Condition:
    """Let the pipeline encode prompts, and what it takes for a negative one that is not given."""
    text, negative, pooled, negative_pooled = pipe.encode_prompt(
        *[list(prompts)] * 3,
        device=device,
        do_classifier_free_guidance=guided,
        negative_prompt=list(negative_prompts) if guided and negative_prompts is not None else None,
        clip_skip=options["clip_skip"],
        max_sequence_length=options["max_sequence_length"],
    )
    send_back(pipe)
    return Condition(text, negative, pooled, negative_pooled) if guided else Condition(text, pooled=pooled)
