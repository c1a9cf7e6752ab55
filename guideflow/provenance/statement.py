"""What a picture says about itself: what made it, and nothing about who made it or of whom."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_PRIVATE: Final = {"reference", "references", "layout", "detector_reference"}
"""Options that are pictures of the user's, or where they are."""

_FILE: Final = re.compile(
    r"([/~.\\]|[A-Za-z]:[\\/]).*|.*(\\|(^|/)\.\.(/|$)|\.(png|jpe?g|webp|safetensors|ckpt|pt|pth|onnx|py|json)\b).*"
)


def statement(about: Mapping[str, Any], i: int, kind: str) -> dict[str, str]:
    """Return the text of a PNG by keyword: of picture i of a manifest, "guided" or "unguided"."""
    configs, settings, own = about["configs"], about["settings"], about["images"][i]
    files = configs.get("files") or {}
    parts = {name: public(configs.get(name), files) for name in ("sampler", "loss", "solver")}
    asked = {
        name: value for name, value in settings.items() if name not in ("prompts", "negative_prompts", "seeds", "run")
    }
    negative = settings.get("negative_prompts")
    found: dict[str, Any] = {
        "kind": kind,
        "prompt": own["prompt"],
        "negative prompt": negative[i] if negative else "",
        "seed": own["seed"],
        "loss": own["loss"],
        "iteration": about["iteration"],
        "run": about["run"],
        "guideflow": about["versions"]["guideflow"],
        "configs": parts,
        "settings": asked,
        "versions": about["versions"],
        "weights": configs.get("weights") or {},
    }
    texts = {name: value if isinstance(value, str) else json.dumps(value, default=str) for name, value in found.items()}
    return {f"guideflow:{name}": text for name, text in texts.items()}


def public(config: Any, files: Mapping[str, str]) -> Any:
    """Return what may be told of how a part was made: no path of this machine, and nothing of the reference.

    Arguments:
        config: of a sampler, loss or solver; None for one that was made by hand.
        files: checksums of the files that options name; told instead of the names.
    """
    if isinstance(config, Mapping):
        return {
            name: "(private)" if name in _PRIVATE and not isinstance(value, int) else public(value, files)
            for name, value in config.items()
        }
    if isinstance(config, list | tuple):
        return [public(value, files) for value in config]
    if isinstance(config, str) and (config in files or _is_local(config)):
        name = re.search(r"\.py(:\w+)$", config)
        known = f", sha256 {files[config]}" if config in files else ""
        return f"(a file{known}){name[1] if name else ''}"
    return config


def _is_local(text: str) -> bool:
    if _FILE.fullmatch(text.replace("\n", " ")):
        return True
    try:
        return any(name and Path(name).exists() for name in (text, text.partition(":")[2]))
    except (OSError, ValueError):  # no name that a file may have
        return False
