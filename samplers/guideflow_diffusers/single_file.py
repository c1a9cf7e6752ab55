"""Read a model in Stability's layout, everything or the denoiser in one file, as community checkpoints are shared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guideflow._require import require
from guideflow.errors import InvalidArgument
from guideflow.losses.networks import read_config
from guideflow.losses.weights import listed, one_line, several, spoiled
from guideflow_diffusers.checkpoints import denoiser_folder, load_texts, load_weights, vae_dtype
from guideflow_diffusers.hub import locate
from guideflow_diffusers.weights import Weights

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_FIRST = "input_blocks.0.0.weight"
"""Of a denoiser that is saved without the name of the model around it."""

_OTHERS = {"first_stage_model", "cond_stage_model", "conditioner"}


def is_single_file(weights: Weights) -> bool:
    """Tell whether a file holds a model in Stability's layout, or at least its denoiser.

    Raises:
        InvalidArgument: If it holds other parts of a model, and no denoiser.
    """
    starts = {name.partition(".")[0] for name in weights}
    if starts & _OTHERS and not any(name.startswith(_UNET) for name in weights):
        parts = ", ".join(sorted(starts & _OTHERS))
        raise InvalidArgument(f"{weights.where} has no denoiser: found {parts} only. Give a checkpoint with one.")
    return any(name.startswith(_UNET) for name in weights) or _FIRST in weights


def load_single_denoiser(weights: Weights, config: Path, *, dtype: torch.dtype) -> Any:
    """Load the denoiser of such a file, whatever else is in it, with the configuration of a diffusers folder."""
    return _load(weights, _UNET, "unet", denoiser_folder(config) or config, dtype)


def load_single_file(weights: Weights, *, dtype: torch.dtype) -> dict[str, Any]:
    """Load the arguments of `Parts` from a file with everything in it.

    Configurations and tokenizers are fetched, those of the base that diffusers recognises.
    """
    starts = {name.partition(".")[0] for name in weights}
    lacking = [] if _VAE.rstrip(".") in starts else ["autoencoder"]
    lacking += [] if starts & {"cond_stage_model", "conditioner"} else ["text encoder"]
    if lacking:
        what = f"{weights.where} has no {' and no '.join(lacking)}"
        raise InvalidArgument(f"{what}. Give base=, a checkpoint that provides the rest.")
    state = dict(weights)
    repo = _utilities().fetch_diffusers_config(state)["pretrained_model_name_or_path"]
    config = locate(repo, option="base", components=())
    unet = load_single_denoiser(weights, config, dtype=dtype)
    vae = _load(weights, _VAE, "vae", config / "vae", vae_dtype(dtype))
    texts = load_texts(config, lambda kind, name: _text_encoder(state, weights.where, kind, config, name).to(dtype))
    return {"unet": unet, "vae": vae} | texts


def _load(weights: Weights, prefix: str, kind: str, folder: Path, dtype: torch.dtype) -> Any:
    own = {name: weights[name] for name in weights if name.startswith(prefix)}
    own = own or {prefix + name: weights[name] for name in weights}
    convert = getattr(_utilities(), f"convert_ldm_{kind}_checkpoint")
    try:
        named = convert(own, read_config(str(folder), "config.json") or {})
    except Exception as error:  # diffusers takes for granted that everything is there
        raise _unconvertible(weights.where, folder, error) from error
    used = {tensor.data_ptr() for tensor in named.values()}
    if kind == "unet" and (unknown := [name for name in own if own[name].data_ptr() not in used]):
        # Such as the factors by which weights of 8 bits are multiplied: without them the others would be wrong.
        raise InvalidArgument(
            f"{several(unknown)} of {weights.where} are not weights of the network, and are not read."
        )
    return load_weights(named, weights.where, folder, dtype=dtype)


def _text_encoder(state: Mapping[str, Tensor], where: str, kind: Any, config: Path, name: str) -> Any:
    make = _utilities().create_diffusers_clip_model_from_ldm
    try:
        network = make(kind, state, subfolder=name, config=str(config), local_files_only=True)
    except Exception as error:
        raise _unconvertible(where, config / name, error) from error
    if absent := [key for key, tensor in network.state_dict().items() if tensor.is_meta]:
        raise InvalidArgument(f"{where} has no weights for {listed(absent)} of the {name}. Download it again.")
    if why := spoiled(network.state_dict()):
        raise InvalidArgument(f"{where} cannot be read as {name}: {why}. Download it again.")
    return network


def _unconvertible(where: str, config: Path, error: Exception) -> InvalidArgument:
    return InvalidArgument(
        f"diffusers cannot convert {where} with the configuration of {config}: {one_line(error)}. Give base=, a "
        "diffusers checkpoint of the same kind (SD 1.5, SD 2.1 or SDXL)."
    )


def _utilities() -> Any:
    return require("diffusers.loaders.single_file_utils", extra="diffusers")
