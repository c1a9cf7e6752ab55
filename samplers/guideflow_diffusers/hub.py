"""Where weights are: a local path, or the Hub's cache, or the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from guideflow._require import missing_weights, require
from guideflow._told import said, shorten
from guideflow.errors import InvalidArgument

COMPONENTS: Final = ("unet", "transformer", "vae", "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
"""The folders of a diffusers checkpoint that guidance needs; never the safety checker or the scheduler."""

_HUB_NAME = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w.-]+?)(?::(?P<file>[^:\s]+))?")


def locate(
    given: str | Path,
    *,
    option: str = "checkpoint",
    variant: str | None = None,
    components: Sequence[str] = COMPONENTS,
) -> Path:
    """Find a local file or folder, a Hub id `owner/name`, or one file on the Hub, `owner/name:path/in/repo`.

    Of a Hub id only the weights of `components` are downloaded, in the variant where they have it; configurations and
    tokenizers are small and always come along. `option` is the keyword that messages name.
    """
    if not isinstance(given, str | os.PathLike) or not given:
        raise _no_path(given, option)
    path = Path(os.path.expanduser(given))
    try:
        found = path.exists()
    except OSError:  # a name may be too long to be one
        found = False
    if found:
        return path
    name = _HUB_NAME.fullmatch(str(given))
    if name is None:
        raise InvalidArgument(
            f"There is no file or folder {shorten(str(given), 200)}, given as {option}. Expected a local "
            "path, or a Hub id such as 'owner/name', or 'owner/name:file.safetensors'."
        )
    repo, file = name["repo"], name["file"]
    hub = require("huggingface_hub", extra="diffusers")
    patterns = [file] if file else _patterns(components, variant)
    try:
        if file:
            if file.rpartition("/")[2] == "adapter_model.safetensors":  # of peft, whose strength lies beside it
                hub.hf_hub_download(repo, file.replace("adapter_model.safetensors", "adapter_config.json"))
            return Path(hub.hf_hub_download(repo, file))
        folder = Path(hub.snapshot_download(repo, allow_patterns=patterns))
        if variant and (plain := [name for name in components if _lacks_weights(folder / name)]):
            hub.snapshot_download(repo, allow_patterns=_patterns(plain, None))
    except Exception as error:  # the client raises its own, the system's and its HTTP library's, by version
        raise missing_weights(given, option, error, patterns) from error
    if lacking := [name for name in components if _lacks_weights(folder / name)]:
        why = f"the weights of {', '.join(lacking)} are missing in {folder}"
        raise missing_weights(given, option, why, patterns)
    return folder


def _no_path(given: object, option: str) -> InvalidArgument:
    """Make the error about what stands in the place of a path, with what to type for the thing that it is."""
    cure = "Expected a local path, or a Hub id such as 'owner/name'."
    if hasattr(given, "scheduler") and hasattr(given, "vae"):
        cure = "A pipeline that is loaded is guided by `guideflow_diffusers.from_pipeline(pipe)`, with its LoRAs."
    elif isinstance(given, Iterable) and not isinstance(given, str | bytes):
        cure += (
            " One is taken; load several into a pipeline of diffusers, for `guideflow_diffusers.from_pipeline(pipe)`."
        )
    return InvalidArgument(f"Got {option}={said(given)}. {cure}")


def _patterns(components: Iterable[str], variant: str | None) -> list[str]:
    """List what to fetch: small files, and of each component the weights of the variant, in one file or several."""
    end = f".{variant}" if variant else ""
    patterns = ["*.json", "*.txt", "*.jinja", "tokenizer*/*.model"]
    for name in components:
        if name.startswith("tokenizer"):
            continue
        stem = f"{name}/model" if name.startswith("text") else f"{name}/diffusion_pytorch_model"
        patterns += [f"{stem}{end}.safetensors", f"{stem}{end}-0*.safetensors"]
    if {"unet", "transformer"} & set(components):  # a repository may be a denoiser and nothing else
        patterns.append(f"diffusion_pytorch_model{end}.safetensors")
    return patterns


def _lacks_weights(folder: Path) -> bool:
    if folder.name.startswith("tokenizer") or not (folder / "config.json").exists():
        return False
    return not any(folder.glob("*.safetensors"))


def find_weights(given: str | Path, *, option: str, variant: str | None = None) -> list[Path]:
    """Find the file, or the shards, of a LoRA, of delta weights or of a denoiser.

    A folder has them itself or in `unet` or `transformer`; of several files the variant's is preferred.
    """
    path = locate(given, option=option, variant=variant, components=("unet", "transformer"))
    if path.is_file():
        if path.suffix != ".safetensors":
            raise InvalidArgument(f"{path}, given as {option}, is not a .safetensors file. Other formats are not read.")
        return [path]
    for inner in ("unet", "transformer"):
        path = path / inner if (path / inner).is_dir() else path
    files = sorted(path.glob("*.safetensors"))
    for wanted in ([f".{variant}.", f".{variant}-"] if variant else [], ["model.safetensors"], ["-of-"]):
        if chosen := [file for file in files if any(part in file.name for part in wanted)]:
            return chosen
    if len(files) == 1:
        return files
    names = ", ".join(file.name for file in files) or "none"
    raise InvalidArgument(
        f"Cannot tell which weights of {path} to take as {option}: found {names}. Give the file itself: "
        f"{option}='folder/file.safetensors', or 'owner/name:file.safetensors' for a file on the Hub."
    )
