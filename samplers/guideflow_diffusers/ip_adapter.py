"""Image prompts: an IP-Adapter in front of the denoiser, whose result guidance then refines."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from guideflow._process import own_state
from guideflow._require import require, without_progress_bars
from guideflow.errors import InvalidArgument
from guideflow.images import read_image, to_pil
from guideflow_diffusers.checkpoints import load_network
from guideflow_diffusers.hub import locate
from guideflow_diffusers.latent import LatentSampler
from guideflow_diffusers.parts import Parts
from guideflow_diffusers.weights import Weights

Source = str | Path | Tensor
Adapted = TypeVar("Adapted", LatentSampler, Parts)


@own_state()
def with_ip_adapter(
    sampler_or_parts: Adapted,
    adapter: str | Path,
    image: Source | Sequence[Source],
    scale: float = 1.0,
    *,
    image_encoder: str | Path | None = None,
) -> Adapted:
    """Let an image prompt the denoiser beside the text, by an IP-Adapter for SD 1.5 or SDXL.

    In every cross-attention, attention(q, text) + scale attention(q, image). diffusers' loader converts the adapter;
    the weights of the base are shared with what was given, which stays as it was.

    Arguments:
        sampler_or_parts: A sampler made of parts, or the parts.
        adapter: The adapter's safetensors file, local or on the Hub, such as
            "h94/IP-Adapter:models/ip-adapter_sd15.safetensors".
        image: A path, a tensor (3, H, W) in [0, 1], or several of either; every image of a batch is prompted by all.
        scale: Weight of the image; 0 leaves the text alone.
        image_encoder: Folder of the adapter's CLIP image encoder, or `owner/name:folder` on the Hub; by default
            `image_encoder` beside the adapter's file.

    Returns:
        A sampler with the same schedule and guidance scale, or parts, with the image built in.

    Raises:
        InvalidArgument: If the file is no IP-Adapter, is for another base, or there is no image.
        MissingWeights: If it is on the Hub and cannot be fetched.

    Source: Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion
    Models", 2023, Eq. (5).
    """
    if isinstance(sampler_or_parts, LatentSampler):
        parts = with_ip_adapter(sampler_or_parts.parts, adapter, image, scale, image_encoder=image_encoder)
        return sampler_or_parts.replace(parts=parts)
    parts = sampler_or_parts
    images = [image] if isinstance(image, str | Path) or (isinstance(image, Tensor) and image.ndim == 3) else [*image]
    if not images:
        raise InvalidArgument("Got no image to prompt with. Expected a path, a tensor (3, H, W), or several.")
    if parts.image_prompt:
        raise InvalidArgument("These parts have an IP-Adapter already. Give all images to the parts without.")
    file = locate(adapter, option="adapter")
    encoder = _encoder_folder(adapter, file, image_encoder)
    weights = _read_adapter(file, parts)
    pictures = [to_pil(read_image(one)[0] if isinstance(one, str | Path) else one) for one in images]
    # An adapter replaces the attention, not the weights it was made of: those are shared.
    shared = {id(tensor): tensor for tensor in (*parts.unet.parameters(), *parts.unet.buffers())}
    unet = copy.deepcopy(parts.unet, shared)
    with without_progress_bars("diffusers"):
        pipeline = _pipeline(parts, unet, encoder)
        pipeline.load_ip_adapter(weights, subfolder="", weight_name="", image_encoder_folder=None)
        pipeline.set_ip_adapter_scale(scale)
        with torch.no_grad():
            both = pipeline.prepare_ip_adapter_image_embeds([pictures], None, parts.unet.device, 1, True)
    prompt = tuple((given.to(unet.dtype), without.to(unet.dtype)) for without, given in (b.chunk(2) for b in both))
    return dataclasses.replace(parts, unet=unet, image_prompt=prompt)


def _encoder_folder(adapter: str | Path, file: Path, given: str | Path | None) -> Path:
    """Find the image encoder; on the Hub it is a folder of the adapter's repository."""
    if given is None and not Path(os.path.expanduser(adapter)).exists():
        repo, _, inside = str(adapter).partition(":")
        given = f"{repo}:{inside.rpartition('/')[0]}/image_encoder"
    if given is None:
        given = file.parent / "image_encoder"
    if Path(os.path.expanduser(given)).is_dir():
        return Path(os.path.expanduser(given))
    repo, _, inside = str(given).partition(":")
    if not inside:
        raise InvalidArgument(
            f"There is no image encoder at {given}. Give image_encoder=, a folder with a CLIP vision model."
        )
    config = locate(f"{repo}:{inside}/config.json", option="image_encoder")
    locate(f"{repo}:{inside}/model.safetensors", option="image_encoder")
    return config.parent


def _read_adapter(file: Path, parts: Parts) -> dict[str, dict[str, Tensor]]:
    """Read an adapter's two groups of tensors and compare them with the denoiser."""
    groups: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in (Weights([file]) if file.suffix == ".safetensors" else {}).items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = tensor
    if groups.keys() != {"image_proj", "ip_adapter"} or not all(groups.values()):
        raise InvalidArgument(
            f"{file} is no IP-Adapter. Expected a safetensors file with tensors image_proj.* and ip_adapter.*, such as "
            "'h94/IP-Adapter:models/ip-adapter_sd15.safetensors'."
        )
    if any("lora" in name for name in groups["ip_adapter"]):
        raise InvalidArgument(f"{file} is a FaceID adapter, which needs a face recogniser: not supported.")
    own = [
        tuple(getattr(module.attn2, key).weight.shape)
        for module in parts.unet.modules()
        if hasattr(module, "attn2")
        for key in ("to_k", "to_v")
    ]
    theirs = [tuple(tensor.shape) for name, tensor in groups["ip_adapter"].items() if name.endswith("_ip.weight")]
    if sorted(own) != sorted(theirs):
        raise InvalidArgument(f"The adapter {file} is for another base (SD 1.5 or SDXL) than the denoiser.")
    return groups


def _pipeline(parts: Parts, unet: Any, encoder: Path) -> Any:
    diffusers = require("diffusers", extra="diffusers")
    transformers = require("transformers", extra="diffusers")
    vision = load_network(transformers.CLIPVisionModelWithProjection, encoder, ignore_mismatched_sizes=True)
    vision = vision.to(unet.device, unet.dtype).eval().requires_grad_(False)
    common = {
        "vae": parts.vae,
        "text_encoder": parts.text_encoder,
        "tokenizer": parts.tokenizer,
        "unet": unet,
        "scheduler": diffusers.DDIMScheduler(),
        "image_encoder": vision,
        "feature_extractor": None,
    }
    if parts.base != "SDXL":
        return diffusers.StableDiffusionPipeline(**common, safety_checker=None, requires_safety_checker=False)
    return diffusers.StableDiffusionXLPipeline(
        **common, text_encoder_2=parts.text_encoder_2, tokenizer_2=parts.tokenizer_2, add_watermarker=False
    )
