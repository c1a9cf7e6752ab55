"""Load CLIP networks through open_clip: published, from local files, or explicitly random; never silently so."""

from __future__ import annotations

import logging
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from guideflow._require import missing_weights, require
from guideflow.errors import InvalidArgument, MissingWeights
from guideflow.losses.networks import read_config
from guideflow.losses.sharing import shared
from guideflow.losses.vision import Preparation, given
from guideflow.losses.weights import one_line, unsafe

PUBLISHED = "openai"
"""The weights that a built-in name stands for when no checkpoint is given."""

_CONFIG = "open_clip_config.json"
_FILES = (_CONFIG, "open_clip_model.safetensors")
_HUB_ID = re.compile(r"(?:hf-hub:)?([\w-][\w.-]*/[\w.-]+)")


@dataclass(frozen=True)
class LoadedClip:
    """A CLIP network and what belongs to it.

    Arguments:
        network: With `encode_image` and `encode_text`.
        tokenizer: Texts to tokens (N, L).
        preparation: How it wants its images.
        title: What was loaded, to show.
    """

    network: nn.Module
    tokenizer: Callable[[list[str]], Tensor]
    preparation: Preparation
    title: str


@shared
def load_clip(
    network: str | Path,
    checkpoint: str | Path | None = None,
    *,
    quick_gelu: bool | None = None,
    random_weights: bool = False,
    allow_pickle: bool = False,
    extra: str = "clip",
) -> LoadedClip:
    """Load a CLIP network.

    Arguments:
        network: A name of open_clip such as "ViT-B-32" or "RN50"; a folder with `open_clip_config.json` and weights; or
            a repository of that layout on the Hub, "owner/name".
        checkpoint: For a name: one of its published tags, or a file: safetensors, or a state dict that `torch.load`
            reads without running code. By default "openai".
        quick_gelu: Whether the weights were trained with QuickGELU, as OpenAI's were. By default this is read off the
            tag, the archive or the configuration beside the file.
        random_weights: Take random weights; refused together with a checkpoint.
        allow_pickle: Also read what runs code of whoever made it while it loads: any pickle, and TorchScript archives,
            such as OpenAI's own.
        extra: The extra of guideflow to install if open_clip is missing.

    Returns:
        The network in float32, not yet frozen, with its tokenizer and preparation.

    Raises:
        InvalidArgument: If there is no such network or tag, the checkpoint does not fit or would run code, or QuickGELU
            is contradicted or cannot be told.
        MissingWeights: If the weights are not here and cannot be downloaded.
    """
    open_clip = require("open_clip", extra=extra)
    if random_weights and checkpoint is not None:
        raise InvalidArgument(
            f"Got checkpoint={str(checkpoint)!r} and random_weights=True. Expected one of the two: leave out the other."
        )
    if allow_pickle:
        warnings.warn(f"allow_pickle=True: {checkpoint or network} may run code of whoever made it.", stacklevel=3)
    create = partial(_create, open_clip, weights_only=not allow_pickle)
    name, options = str(network).replace("/", "-"), {}
    if name in open_clip.list_models():
        model = _built_in(open_clip, create, name, checkpoint, quick_gelu, random_weights)
        title = f"{name}, {'random weights' if random_weights else Path(checkpoint or PUBLISHED).name}"
    else:
        name, title, text = _source(network, checkpoint, quick_gelu, random_weights)
        if text.get("hf_model_name"):  # of transformers, which may ask whether to run code that lies there
            configs = require("transformers", extra=extra).AutoConfig
            with _loading(name, title):
                configs.from_pretrained(text["hf_model_name"], trust_remote_code=False)
        if text.get("hf_tokenizer_name"):  # whatever `tokenizer_kwargs` says
            options["trust_remote_code"] = False
        model = create(name, None, title, load_weights=not random_weights, require_pretrained=not random_weights)
    with _loading(name, title):
        tokenizer = open_clip.get_tokenizer(name, **options)
    return LoadedClip(model, tokenizer, preparation_of(model), title)


def preparation_of(network: nn.Module) -> Preparation:
    """Read how a CLIP network wants its images; a module that does not say gets them as they are."""
    visual = getattr(network, "visual", network)
    config: dict[str, Any] = getattr(visual, "preprocess_cfg", {})
    ways = {"interpolation": ("bicubic", "bilinear"), "resize_mode": ("shortest", "squash")}
    for key, known in ways.items():  # the first of which is open_clip's own
        if config.get(key, known[0]) not in known:
            raise InvalidArgument(f"The network wants {key}={config[key]!r}. Expected one of: {', '.join(known)}.")
    return Preparation(
        **given(config.get("size", getattr(visual, "image_size", None)), config.get("mean"), config.get("std")),
        interpolation="bilinear" if config.get("interpolation") == "bilinear" else "bicubic",
        crop=config.get("resize_mode", "shortest") == "shortest",
    )


def _built_in(
    open_clip: Any,
    create: Callable[..., nn.Module],
    name: str,
    checkpoint: str | Path | None,
    quick_gelu: bool | None,
    random_weights: bool,
) -> nn.Module:
    named = bool(open_clip.get_model_config(name).get("quick_gelu"))
    if named and quick_gelu is False:
        raise InvalidArgument(f"Got quick_gelu=False for {name!r}, which has QuickGELU. Type {_plain(name)!r} for it.")
    if random_weights:
        return create(name, None, name, force_quick_gelu=bool(quick_gelu))
    checkpoint = PUBLISHED if checkpoint is None else checkpoint
    tags = open_clip.list_pretrained_tags_by_model(name)
    asked = True if named else quick_gelu
    if str(checkpoint) in tags:
        config = open_clip.get_pretrained_cfg(name, str(checkpoint))
        where = str(config.get("hf_hub") or config.get("url", "")).rstrip("/")
        inherent = named and _plain(name) == name  # such an architecture has no other form, whatever the tag says
        quick = inherent or _settled(bool(config.get("quick_gelu")), asked, name, checkpoint)
        return create(name, str(checkpoint), where, force_quick_gelu=quick)
    file = Path(os.path.expanduser(checkpoint))
    if not file.is_file():
        raise InvalidArgument(
            f"Got checkpoint={str(checkpoint)!r} for {name!r}, which is no file and none of its published weights: "
            f"{', '.join(tags) or 'it has none'}. Give one of these or the path of a file."
        )
    known = _is_archive(file) or _beside(file)  # archives are OpenAI's
    if known is None and asked is None and f"{name}-quickgelu" in open_clip.list_models():
        raise InvalidArgument(
            f"Cannot tell whether the weights in {file} were trained with QuickGELU. Type quick_gelu=True if they come "
            "from OpenAI, else what their source says; quick_gelu=False for most others."
        )
    quick = bool(asked) if known is None else _settled(known, asked, name, file)
    return create(name, str(file), str(file), force_quick_gelu=quick)


def _settled(known: bool, asked: bool | None, name: str, checkpoint: str | Path) -> bool:
    """Return how the weights were trained, or refuse what contradicts it."""
    if asked is not None and asked != known:
        cure = f"Type network={_plain(name)!r}" if asked else "Leave quick_gelu out"
        raise InvalidArgument(
            f"The weights {str(checkpoint)!r} were trained with{'' if known else 'out'} QuickGELU, and {name!r} with "
            f"{'' if asked else 'no '}QuickGELU was asked for. {cure}{'' if asked else ' or type quick_gelu=True'}."
        )
    return known


def _source(
    network: str | Path, checkpoint: str | Path | None, quick_gelu: bool | None, random_weights: bool
) -> tuple[str, str, dict[str, Any]]:
    """Return open_clip's name for a folder or a repository, a title, and what its configuration says of texts."""
    folder = Path(os.path.expanduser(str(network).removeprefix("local-dir:")))
    if not folder.is_dir():
        if (found := _HUB_ID.fullmatch(str(network))) is None:
            raise InvalidArgument(
                f"There is no CLIP network {str(network)!r}. Expected a name of open_clip such as 'ViT-B-32' or 'RN50' "
                f"(`open_clip.list_models()`), a folder with {_CONFIG}, or 'owner/name' on the Hub."
            )
        source = title = found[1]
        name = f"hf-hub:{title}"
    else:
        source, name, title = str(folder), f"local-dir:{folder}", folder.name
    config = read_config(source, _CONFIG, files=_FILES)
    if config is None:
        raise InvalidArgument(
            f"{source} has no {_CONFIG}. Expected a folder as open_clip publishes them; for a file of weights give "
            f"network='ViT-B-32', or whichever it is, and checkpoint={str(folder / 'file.safetensors')!r}."
        )
    weights = [file for ending in ("safetensors", "bin", "pth") for file in folder.glob(f"*.{ending}")]
    if folder.is_dir() and not weights and not random_weights:
        raise MissingWeights(
            f"{folder} has {_CONFIG} but no weights. Put open_clip_model.safetensors there; for random weights "
            "type random_weights=True."
        )
    if checkpoint is not None or quick_gelu is not None:
        extra = "checkpoint" if checkpoint is not None else "quick_gelu"
        raise InvalidArgument(f"{title} has weights and a configuration of its own. Leave {extra}= out.")
    return name, title, config.get("model_cfg", {}).get("text_cfg", {})


def _create(open_clip: Any, name: str, pretrained: str | None, where: str, **options: Any) -> nn.Module:
    with _loading(name, where):
        model: nn.Module = open_clip.create_model(name, pretrained=pretrained, **options)
    return model.float()  # whatever torch's default dtype is


@contextmanager
def _loading(name: str, where: str) -> Iterator[None]:
    """Keep open_clip from writing to the root logger, and turn what it raises into errors that say what to do."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="QuickGELU mismatch")  # settled before
            warnings.filterwarnings(
                "ignore", message=".*(torch.jit|TorchScript|pickle protocol)"
            )  # refused, or asked for
            yield
    except Exception as error:  # torch and open_clip raise many kinds on damaged files
        if "weights_only" in str(error):
            raise unsafe(where, error, "If you trust them, type allow_pickle=True.") from error
        if "state_dict" in str(error) or "size mismatch" in str(error):
            raise InvalidArgument(
                f"The weights in {where} do not fit. Name the network they belong to. ({one_line(error)})"
            ) from error
        if not isinstance(error, RuntimeError) or Path(where).exists():
            raise InvalidArgument(f"{where} cannot be loaded as {name}: {one_line(error)}") from error
        missing = missing_weights(where, "network", error, _FILES)
        raise MissingWeights(f"{missing} For random weights type random_weights=True.") from error
    finally:
        logging.disable(before)


def _is_archive(file: Path) -> bool | None:
    """Tell whether a file is a TorchScript archive; None for no."""
    if not zipfile.is_zipfile(file):
        return None
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in entry for entry in archive.namelist()) or None


def _beside(file: Path) -> bool | None:
    """Read whether weights have QuickGELU off the configuration that lies beside them; None if there is none."""
    config = read_config(str(file.parent), _CONFIG)
    return None if config is None else bool(config.get("model_cfg", {}).get("quick_gelu"))


def _plain(name: str) -> str:
    return name.removesuffix("-quickgelu")
