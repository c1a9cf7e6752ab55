"""Read the networks of a checkpoint: a diffusers folder, a denoiser by itself, or everything in one file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from guideflow._require import require
from guideflow.errors import InvalidArgument
from guideflow.losses.networks import one_line, read_config
from guideflow_diffusers.hub import locate
from guideflow_diffusers.weights import Weights, check_fit

DENOISERS = ("unet", "transformer")
_STABILITY = "model.diffusion_model."
_PARTS = re.compile(
    r"(diffusers|transformers)\.(CLIP|UNet2D|AutoencoderKL)\w*|diffusers\.\w+Scheduler|stable_diffusion\.\w+|None.None"
)


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
        names = ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))) or "none"
        raise InvalidArgument(
            f"Got variant = {variant!r}, and {folder} has no such weights: found {names}. Expected "
            f"diffusion_pytorch_model.{variant}.safetensors; leave variant out for the plain ones."
        )
    chosen = variant if has_variant(folder, variant) else None
    return _denoiser_class(folder).from_pretrained(folder, variant=chosen, torch_dtype=dtype, use_safetensors=True)


def load_denoiser_file(weights: Weights, config: Path, *, dtype: torch.dtype) -> Any:
    """Load a denoiser from a file of its own weights, in diffusers' names, with the configuration of a folder."""
    config = denoiser_folder(config) or config
    kind = _denoiser_class(config)
    with torch.device("meta"):
        network = kind.from_config(kind.load_config(config))
    check_fit(dict(network.named_parameters()), weights)
    network.load_state_dict({name: weights[name].to(dtype) for name in weights}, assign=True)
    return network


def _denoiser_class(folder: Path) -> Any:
    diffusers = require("diffusers", extra="diffusers")
    name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name", "UNet2DConditionModel")
    kind = getattr(diffusers, name, None)
    if not isinstance(kind, type) or not issubclass(kind, diffusers.ModelMixin):  # a pipeline may bring code along
        raise InvalidArgument(f"{folder / 'config.json'} names the class {name!r}, which is no network of diffusers.")
    return kind


def load_rest(folder: Path, *, variant: str | None, dtype: torch.dtype) -> dict[str, Any]:
    """Load the arguments of `Parts` but `unet` from a diffusers folder; a variant is taken where it exists."""
    diffusers = require("diffusers", extra="diffusers")
    transformers = require("transformers", extra="diffusers")

    def options(name: str) -> dict[str, Any]:
        return {"variant": variant if has_variant(folder / name, variant) else None, "use_safetensors": True}

    found: dict[str, Any] = {
        "vae": diffusers.AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=vae_dtype(dtype), **options("vae"))
    }
    kinds = {"": transformers.CLIPTextModel, "_2": transformers.CLIPTextModelWithProjection}
    for end, kind in kinds.items():
        if (folder / f"text_encoder{end}").is_dir():
            name = f"text_encoder{end}"
            found[name] = kind.from_pretrained(folder / name, **options(name)).to(dtype)
            found[f"tokenizer{end}"] = transformers.CLIPTokenizer.from_pretrained(folder / f"tokenizer{end}")
    if "text_encoder_2" in found:
        index = read_config(str(folder), "model_index.json") or {}
        # SDXL's pipeline takes this for granted where a checkpoint does not say.
        found["force_zeros_for_empty_prompt"] = bool(index.get("force_zeros_for_empty_prompt", True))
    return found


def vae_dtype(dtype: torch.dtype) -> torch.dtype:
    """Keep the autoencoder in float32 at least: half precision overflows in it and blurs its gradient."""
    return torch.promote_types(dtype, torch.float32)


def is_single_file(weights: Weights) -> bool:
    """Tell whether a file holds a whole model in Stability's layout."""
    return any(name.startswith(_STABILITY) for name in weights)


def load_single_file(file: Path, config: Path | None, *, dtype: torch.dtype) -> dict[str, Any]:
    """Load the arguments of `Parts` from a model in Stability's layout, as community checkpoints are shared.

    Configurations and tokenizers come from `config`, a diffusers folder of the same base; they are fetched if None.
    """
    diffusers = require("diffusers", extra="diffusers")
    if config is None:
        utilities = require("diffusers.loaders.single_file_utils", extra="diffusers")
        state = utilities.load_single_file_checkpoint(str(file))
        repo = utilities.fetch_diffusers_config(state)["pretrained_model_name_or_path"]
        del state
        config = locate(repo, option="base", components=())
    _check_index(config)
    kind = "XL" if (config / "text_encoder_2").is_dir() else ""
    pipeline = getattr(diffusers, f"StableDiffusion{kind}Pipeline")
    optional = {"image_encoder": None, "feature_extractor": None} | ({} if kind else {"safety_checker": None})
    try:
        made = pipeline.from_single_file(
            str(file), config=str(config), torch_dtype=dtype, local_files_only=True, **optional
        )
    except Exception as error:
        raise InvalidArgument(
            f"diffusers cannot convert {file} with the configuration of {config}: {one_line(error)}. Give base=, a "
            "diffusers checkpoint of the same kind (SD 1.5, SD 2.1 or SDXL)."
        ) from error
    names = ("unet", "vae", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    found = {name: getattr(made, name, None) for name in names}
    found["vae"] = found["vae"].to(vae_dtype(dtype))
    found["force_zeros_for_empty_prompt"] = bool(made.config.get("force_zeros_for_empty_prompt", False))
    return found


def _check_index(config: Path) -> None:
    """Refuse an index that makes diffusers import other modules, or classes that bring code along."""
    for name, value in (read_config(str(config), "model_index.json") or {}).items():
        if isinstance(value, list) and not _PARTS.fullmatch(".".join(map(str, value))):
            raise InvalidArgument(f"{config / 'model_index.json'} names {value} as {name}, which is not read.")
