"""Read the networks of a checkpoint: a diffusers folder, or a denoiser by itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guideflow._require import require
from guideflow.errors import InvalidArgument
from guideflow.losses.networks import load_exactly, read_config
from guideflow.losses.weights import one_line, spoiled
from guideflow.memory import ran_out
from guideflow_diffusers.weights import check_fit

DENOISERS = ("unet", "transformer")
_PLAIN = re.compile(r"(?:diffusion_pytorch_)?model(?:-\d+-of-\d+)?")
_VARIANT = re.compile(r"(?:diffusion_pytorch_)?model\.(.+?)(?:-\d+-of-\d+)?")


def denoiser_folder(folder: Path) -> Path | None:
    """Find the denoiser of a diffusers folder, or the folder itself if it is a denoiser's; None if it has none."""
    for name in DENOISERS:
        if (folder / name).is_dir():
            return folder / name
    return folder if (folder / "config.json").is_file() and not (folder / "model_index.json").is_file() else None


def require_complete(denoiser: Path, rest: Path) -> None:
    """Refuse a checkpoint that lacks something, given the folders of the denoiser and of everything else."""
    missing = [] if denoiser_folder(denoiser) is not None else ["unet"]
    missing += [name for name in ("vae", "tokenizer", "text_encoder") if not (rest / name).is_dir()]
    if (rest / "text_encoder_2").is_dir() and not (rest / "tokenizer_2").is_dir():
        missing.append("tokenizer_2")
    if not missing:
        return
    hint = "" if missing[0] == "unet" else " Or give base=, a whole checkpoint of the same kind that provides the rest."
    raise InvalidArgument(
        f"{rest} is no diffusers folder: {', '.join(missing)} not found in it. Expected a folder written by "
        f"`pipeline.save_pretrained(folder)`, with unet, vae, tokenizer and text_encoder inside.{hint}"
    )


def has_variant(folder: Path, variant: str | None) -> bool:
    """Tell whether a network's folder has weights of a variant."""
    return variant is not None and any(f".{variant}." in f.name or f".{variant}-" in f.name for f in folder.iterdir())


def load_denoiser(folder: Path, *, variant: str | None, strict: bool, dtype: torch.dtype) -> Any:
    """Load a denoiser of any diffusers class from a diffusers folder or its own.

    If `strict`, a missing variant is an error; without, the plain weights are taken.
    """
    folder = denoiser_folder(folder) or folder
    if variant and strict and not has_variant(folder, variant):
        raise InvalidArgument(
            f"Got variant = {variant!r}, and {folder} has no such weights: found {_names(folder)}. Expected "
            f"diffusion_pytorch_model.{variant}.safetensors; leave variant out for the plain ones."
        )
    return load_network(network_class(folder), folder, variant=variant, torch_dtype=dtype)


def load_network(kind: Any, folder: Path, *, variant: str | None = None, **options: Any) -> Any:
    """Load a network of diffusers or transformers from its folder, with exactly its weights.

    A variant is taken where it exists; whatever is wrong with the folder becomes an `InvalidArgument`.
    """
    chosen = variant if has_variant(folder, variant) else None
    stems = [path.stem for path in folder.glob("*.safetensors")]
    if chosen is None and stems and not any(_PLAIN.fullmatch(stem) for stem in stems):
        variants = sorted({found[1] for stem in stems if (found := _VARIANT.fullmatch(stem))})
        cure = (
            f"Type variant={variants[0]!r}." if variants else "Expected diffusion_pytorch_model or model.safetensors."
        )
        raise InvalidArgument(f"{folder} has no plain weights: found {_names(folder)}. {cure}")
    try:
        return load_exactly(kind.from_pretrained, folder, variant=chosen, use_safetensors=True, **options)
    except Exception as error:  # what is damaged makes them raise many kinds
        if ran_out(error) or type(error) is InvalidArgument:
            raise
        why = f"{folder} cannot be loaded as {kind.__name__}: {one_line(error, 400)}"
        raise InvalidArgument(f"{why.rstrip('.')}. Save or download it again.") from error


def _names(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))) or "none"


def load_weights(weights: Mapping[str, Tensor], where: str, config: Path, *, dtype: torch.dtype) -> Any:
    """Load a network from its own weights, in diffusers' names, with the configuration of its folder."""
    kind = network_class(config)
    with torch.device("meta"):
        network = kind.from_config(kind.load_config(config))
    check_fit(network.state_dict(), weights, where)
    if why := spoiled(weights):
        raise InvalidArgument(f"{where} cannot be loaded as {kind.__name__}: {why}. Download it again.")
    network.load_state_dict({name: weights[name].to(dtype) for name in weights}, assign=True)
    return network


def network_class(folder: Path) -> Any:
    """Return the class of diffusers that a network's folder names."""
    diffusers = require("diffusers", extra="diffusers")
    name = (read_config(str(folder), "config.json") or {}).get("_class_name", "UNet2DConditionModel")
    kind = getattr(diffusers, str(name), None)
    if not isinstance(kind, type) or not issubclass(kind, diffusers.ModelMixin):  # a pipeline may bring code along
        raise InvalidArgument(f"{folder / 'config.json'} names the class {name!r}, which is no network of diffusers.")
    return kind


def load_rest(folder: Path, *, variant: str | None, dtype: torch.dtype) -> dict[str, Any]:
    """Load the arguments of `Parts` but `unet` from a diffusers folder; a variant is taken where it exists."""
    kind = require("diffusers", extra="diffusers").AutoencoderKL
    vae = load_network(kind, folder / "vae", variant=variant, torch_dtype=vae_dtype(dtype))
    load = partial(load_network, variant=variant, ignore_mismatched_sizes=True)
    return {"vae": vae} | load_texts(folder, lambda kind, name: load(kind, folder / name).to(dtype))


def load_texts(folder: Path, load: Callable[[Any, str], Any]) -> dict[str, Any]:
    """Load what encodes texts: tokenizers of a diffusers folder, and networks by `load`, given class and part."""
    transformers = require("transformers", extra="diffusers")
    found: dict[str, Any] = {}
    kinds = {"": transformers.CLIPTextModel, "_2": transformers.CLIPTextModelWithProjection}
    for end, kind in kinds.items():
        if (folder / f"text_encoder{end}").is_dir():
            found[f"text_encoder{end}"] = load(kind, f"text_encoder{end}")
            found[f"tokenizer{end}"] = _tokenizer(folder / f"tokenizer{end}")
    if "text_encoder_2" in found:
        index = read_config(str(folder), "model_index.json") or {}
        # SDXL's pipeline takes this for granted where a checkpoint does not say.
        found["force_zeros_for_empty_prompt"] = bool(index.get("force_zeros_for_empty_prompt", True))
    return found


def _tokenizer(folder: Path) -> Any:
    """Load a tokenizer, or refuse one that takes every prompt for the same."""
    kind = require("transformers", extra="diffusers").CLIPTokenizer
    try:
        tokenizer = kind.from_pretrained(folder)
        alike = tokenizer("a").input_ids == tokenizer("b").input_ids
    except Exception as error:  # what is damaged makes it raise many kinds
        raise InvalidArgument(f"{folder} cannot be loaded as a tokenizer: {one_line(error)}") from error
    if alike:
        raise InvalidArgument(f"{folder} has no vocabulary. Expected tokenizer.json, or vocab.json and merges.txt.")
    return tokenizer


def vae_dtype(dtype: torch.dtype) -> torch.dtype:
    """Keep the autoencoder in float32 at least: half precision overflows in it and blurs its gradient."""
    return torch.promote_types(dtype, torch.float32)
