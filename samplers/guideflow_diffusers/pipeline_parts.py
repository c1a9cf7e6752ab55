"""What a sampler takes out of a loaded pipeline: its scheduler, and the parts of those with a U-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import guideflow as gf
from guideflow.errors import InvalidArgument
from guideflow_diffusers.checkpoints import vae_dtype
from guideflow_diffusers.cut_prompts import watched
from guideflow_diffusers.decoding import DecoderGradient
from guideflow_diffusers.latent import LatentSampler
from guideflow_diffusers.parts import Parts
from guideflow_diffusers.quantised import require_gradient, require_plain
from guideflow_diffusers.reading import read_schedule
from guideflow_diffusers.replica import devices, frozen_view
from guideflow_diffusers.text import Condition
from guideflow_diffusers.text_parts import send_back


@dataclass(frozen=True)
class Call:
    """A pipeline with what it would be called with.

    Arguments:
        pipe: The pipeline.
        options: By the names of its `__call__`, defaults included.
        schedule: Instead of the scheduler's.
        decoder_gradient: See `LatentSampler`.
    """

    pipe: Any
    options: Mapping[str, Any]
    schedule: gf.Schedule | None
    decoder_gradient: str | Path | DecoderGradient

    def steps(self, **more: Any) -> gf.Schedule:
        """Read the scheduler, unless a schedule was given."""
        if self.schedule is not None:
            return self.schedule
        asked = {name: self.options.get(name) for name in ("num_inference_steps", "timesteps", "sigmas")}
        return read_schedule(self.pipe.scheduler, eta=self.options.get("eta") or 0.0, **asked | more)

    def size(self, default: int | Sequence[int]) -> tuple[int, int]:
        """Return (height, width) in pixels, of which each that was not given is the default."""
        own = (default, default) if isinstance(default, int) else tuple(default)
        return self.options.get("height") or own[0], self.options.get("width") or own[1]


def unet_sampler(call: Call) -> LatentSampler:
    """Make the sampler of Stable Diffusion, SDXL and LCM pipelines."""
    pipe, options = call.pipe, call.options
    device = execution_device(pipe.unet)
    unet, vae = frozen_view(pipe.unet, device=device), autoencoder_view(pipe.vae, device)
    given, taken = vae.config.latent_channels, unet.config.in_channels
    if given != taken:
        raise InvalidArgument(f"The pipeline's autoencoder has {given} latent channels and its denoiser takes {taken}.")
    guided = options["guidance_scale"] > 1 and unet.config.time_cond_proj_dim is None
    encoder = partial(_encode, pipe, unet, clip_skip=options["clip_skip"])
    more = {"original_inference_steps": options.get("original_inference_steps")}
    return LatentSampler(
        Parts(unet, vae, None, None, encoder=encoder, image_prompt=_image_prompt(call, device, guided)),
        call.steps(**{name: value for name, value in more.items() if value is not None}),
        guidance_scale=options["guidance_scale"],
        image_size=call.size(_native_size(unet, pipe.vae_scale_factor)),
        decoder_gradient=call.decoder_gradient,
    )


def require_usable(pipe: Any) -> None:
    """Refuse a pipeline that lacks a part, or whose weights are not all in place at once."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    wanted = ["vae", "text_encoder", "transformer" if "transformer" in pipe.components else "unet"]
    if missing := [name for name in wanted if name not in parts]:
        raise InvalidArgument(f"The pipeline has no {', '.join(missing)}. Load it with all its parts.")
    parts.pop("safety_checker", None)
    for name, part in parts.items():
        if any(getattr(getattr(module, "_diffusers_hook", None), "hooks", None) for module in part.modules()):
            raise InvalidArgument(
                f"The {name} has a hook of diffusers (group offloading, layerwise casting or caching) by which weights "
                "or results come and go, and gradients need them in place. Load the pipeline without."
            )
    places = {name: where for name, part in parts.items() if not hasattr(part, "_hf_hook") for where in devices(part)}
    if len(set(places.values())) > 1:
        told, main = ", ".join(f"{name} on {where}" for name, where in places.items()), places.get(wanted[-1], "cuda")
        raise InvalidArgument(f"The pipeline's parts are on different devices: {told}. Type: pipe.to('{main}')")
    if any(where.type == "meta" for name in wanted for where in devices(parts[name])):
        raise InvalidArgument(
            "Weights of the pipeline are not in memory, as after enable_sequential_cpu_offload(), and gradients need "
            "them in place. Load the pipeline without, or with enable_model_cpu_offload()."
        )
    require_plain(parts["vae"], "vae")
    require_gradient(parts[wanted[-1]], wanted[-1])


def execution_device(network: Any) -> torch.device:
    """Tell where a network is evaluated, which with offloading is not where its weights are."""
    where = getattr(getattr(network, "_hf_hook", None), "execution_device", None)
    return network.device if where is None else torch.device(where)


def autoencoder_view(vae: Any, device: torch.device) -> Any:
    """Return a frozen view of an autoencoder, in float32 at least."""
    return frozen_view(vae, device=device, dtype=vae_dtype(vae.dtype))


def _native_size(unet: Any, factor: int) -> tuple[int, int]:
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return height * factor, width * factor


@torch.no_grad()
def _image_prompt(call: Call, device: torch.device, guided: bool) -> tuple[tuple[Tensor, Tensor], ...]:
    """Encode what the IP-Adapter of a pipeline shows the denoiser, and what stands for no image."""
    pipe = call.pipe
    image, embeds = (call.options.get(f"ip_adapter_image{end}") for end in ("", "_embeds"))
    given, adapted = image is not None or embeds is not None, pipe.unet.config.encoder_hid_dim_type == "ip_image_proj"
    if adapted and not given:
        raise InvalidArgument(
            "The pipeline has an IP-Adapter and got no picture for it. Give ip_adapter_image=, or type: "
            "pipe.unload_ip_adapter()"
        )
    if given and not adapted:
        raise InvalidArgument("The pipeline has no IP-Adapter for the picture. Type: pipe.load_ip_adapter(...)")
    if not adapted:
        return ()
    both = guided or embeds is None
    found = pipe.prepare_ip_adapter_image_embeds(image, embeds, device, 1, both)
    found = [one.to(device, pipe.unet.dtype) for one in found]
    halves = [one.chunk(2) if both else (torch.zeros_like(one), one) for one in found]
    return tuple((shown, without) for without, shown in halves)


@torch.no_grad()
def _encode(
    pipe: Any,
    unet: Any,
    prompts: Sequence[str],
    negative_prompts: Sequence[str] | None,
    *,
    guided: bool,
    clip_skip: int | None,
) -> Condition:
    """Let the pipeline encode prompts as it does for itself: LoRAs, textual inversion and its own negative prompt."""
    with watched(pipe, [*prompts, *(negative_prompts or ())], {}) as view:
        made = view.encode_prompt(
            prompt=list(prompts),
            device=unet.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            negative_prompt=list(negative_prompts) if guided and negative_prompts is not None else None,
            clip_skip=clip_skip,
        )
    send_back(pipe)
    cast = [None if one is None else one.to(unet.device, unet.dtype) for one in (*made, None, None)]
    text, negative, pooled, negative_pooled = cast[:4]
    return Condition(text, negative, pooled, negative_pooled) if guided else Condition(text, pooled=pooled)
