"""How the parts of a solve are written down, to be loaded again."""

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from guideflow import registry
from guideflow.losses.balancing import Balanced
from guideflow.losses.base import Loss, WeightedSum
from guideflow.registry.entries import FILE_NAME
from guideflow.registry.references import PICTURES
from guideflow.types import LossLike

_LARGEST: Final = 64 * 2**20

REFERENCES: Final = ("reference", "observed")
"""The options of losses that hold what `Loss.references` returns."""


def loss_config(loss: LossLike) -> dict[str, Any] | None:
    """Return how to load a loss again, None if some term was made by hand."""
    if (config := registry.config(loss)) is not None:  # of a sum, too, that is loaded by one name
        return config | {"references": len(loss.references()) if isinstance(loss, Loss) else 0}
    if isinstance(loss, Balanced):
        inner = loss_config(loss.sum)
        return None if inner is None else {"balanced": inner, "limit": loss.limit, "name": loss.name}
    if not isinstance(loss, WeightedSum):
        return None
    terms = [
        {"weight": term.weight, "name": term.name, "loss": loss_config(term.loss), "ramps": [*map(asdict, term.ramps)]}
        for term in loss.terms
    ]
    return None if any(term["loss"] is None for term in terms) else {"terms": terms, "name": loss.name}


def typed_losses(config: Any) -> str:
    """Write a loss as it is typed, `--loss '0.5*style:reference=a.png' --loss ...`; empty if it cannot be typed."""
    terms = config.get("terms", [{"weight": 1.0, "loss": config}]) if isinstance(config, dict) else []
    if any(term.get("ramps") or "options" not in (term["loss"] or {}) for term in terms):
        return ""
    try:
        return " ".join(f"--loss {shlex.quote(_typed(term['weight'], term['loss']))}" for term in terms)
    except TypeError:  # an option is a tensor, as where saved pictures have taken the place of paths
        return ""


def _typed(weight: float, config: Mapping[str, Any]) -> str:
    given = {key: one if isinstance(one, str) else json.dumps(one) for key, one in config["options"].items()}
    options = ",".join(f"{key}={'none' if one == 'null' else one}" for key, one in given.items())
    return f"{'' if weight == 1 else f'{weight:g}*'}{config['name']}{options and f':{options}'}"


def texts(value: Any) -> Iterator[str]:
    """List every text in an option, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from texts(inner)


def digests(configs: Mapping[str, Any]) -> dict[str, str]:
    """Return the checksum of every file that options name, so that another one under the name is noticed."""
    parts = [*plugins(dict(configs))]
    named = {text for part in parts for text in texts(part["options"])} | {*filter(None, map(code, parts))}
    return {text: found for text in sorted(named) if (found := digest(text))}


def code(part: Mapping[str, Any]) -> str:
    """Return the file that a loss, sampler or solver is read from; empty if it is a plugin's."""
    found = FILE_NAME.fullmatch(str(part.get("name")))
    return found[1] if found else ""


def copies(config: Any) -> dict[str, Tensor]:
    """Return the pictures that a loss names beside its references, such as a layout: their bytes by their checksum."""
    named = (
        text
        for part in plugins(config)
        for option, value in part["options"].items()
        if option not in REFERENCES
        for text in texts(value)
        if Path(text).suffix.lower() in PICTURES
    )
    found = {}
    for text in named:
        if name := digest(text):
            found[name] = torch.frombuffer(bytearray(Path(text).read_bytes()), dtype=torch.uint8)
    return found


def digest(name: str) -> str | None:
    """Return the checksum of a file; None if there is none, or one of weights, too large to be read for this."""
    try:
        if not Path(name).is_file() or Path(name).stat().st_size > _LARGEST:
            return None
        return hashlib.sha256(Path(name).read_bytes()).hexdigest()
    except (OSError, ValueError):  # no name that a file may have
        return None


def plugins(config: Any) -> Iterator[dict[str, Any]]:
    """Find the configs of what is loaded by name, however deep in another one."""
    if isinstance(config, dict):
        yield from [config] if isinstance(config.get("options"), dict) else []
        config = list(config.values())
    for inner in config if isinstance(config, list) else ():
        yield from plugins(inner)
