"""Solves on disk: images for people, a manifest and one file of tensors for `resume`; and parts that load again.

The manifest names the file of tensors and is replaced last, in one step, so a save that is cut short leaves the
previous one whole.
"""

import csv
import io
import json
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import torch
from torch import Tensor

from guideflow import images, registry
from guideflow._require import write_whole
from guideflow.errors import CannotResume, FolderInUse
from guideflow.losses.balancing import Balanced
from guideflow.losses.base import Loss, WeightedSum
from guideflow.types import LossLike

MANIFEST = "manifest.json"
FORMAT = 2
"""Of the files; a run that was saved in another one is refused."""
_OURS = re.compile(r"state-[0-9a-f]{8}-\d{6,}\.safetensors|(un)?guided-\d{2,}\.png|history\.csv")
"""What a save writes beside the manifest; on the word of a manifest nothing else is read or removed."""


def write(
    folder: Path,
    about: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    history: Mapping[str, Tensor],
    pictures: Mapping[str, Tensor],
    *,
    overwrite: bool,
) -> None:
    """Write a solve to a folder: what the manifest says about it and tensors for `read`, the rest for people.

    What is no RGB image is left out of `pictures`; the others carry what `about["images"]` says of each.
    """
    from safetensors.torch import save as serialise

    old = _old_manifest(folder)
    if old.get("run", about["run"]) != about["run"] and not overwrite:
        raise FolderInUse(
            f"{folder} holds another solve, of {old.get('settings', {}).get('prompts')} with seeds "
            f"{old.get('settings', {}).get('seeds')}. Save to another folder, or type `save(..., overwrite=True)`."
        )
    folder.mkdir(parents=True, exist_ok=True)
    tensor_file = f"state-{about['run'][:8]}-{about['iteration']:06d}.safetensors"
    named = _pictures(pictures, about)
    files = [tensor_file, "history.csv", *named]
    # Two names may share memory, which safetensors refuses.
    write_whole(folder / tensor_file, serialise({name: value.clone() for name, value in tensors.items()}))
    for name, (picture, metadata) in named.items():
        images.save_image(folder / name, picture, metadata)
    write_whole(folder / "history.csv", _table(history).encode())
    manifest = {"format": FORMAT, "tensors": tensor_file, "files": files, **about}
    write_whole(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    listed = old.get("files")
    for name in set(map(str, listed)) - set(files) if isinstance(listed, list) else ():
        if _OURS.fullmatch(name):
            (folder / name).unlink(missing_ok=True)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the manifest and the tensors of a folder, or raise `CannotResume`."""
    from safetensors.torch import load_file

    if not (folder / MANIFEST).is_file():
        raise CannotResume(f"No solution is saved in {folder}: no {MANIFEST}. Give the folder of `Solution.save`.")
    manifest = json.loads((folder / MANIFEST).read_text())
    if manifest["format"] != FORMAT:
        raise CannotResume(
            f"{folder} was saved in format {manifest['format']}; this guideflow reads {FORMAT}. Install the "
            f"version that saved it: guideflow {manifest.get('versions', {}).get('guideflow')}."
        )
    name = str(manifest["tensors"])
    file = (folder / name).resolve()
    if not _OURS.fullmatch(name) or file.parent != folder.resolve() or not file.is_file():
        raise CannotResume(f"The manifest in {folder} names {name!r}, which is no file of that folder.")
    return manifest, load_file(file)


# Records, which are frozen dataclasses of tensors, ints, mappings and records, as named tensors and back


def flatten(value: Any, name: str) -> dict[str, Tensor]:
    """Flatten a record to tensors by path: state/rollout/terms/identity."""
    if value is None:
        return {}
    if isinstance(value, Tensor | int):
        return {name: torch.as_tensor(value).detach().cpu().contiguous()}
    if is_dataclass(value):
        value = {item.name: getattr(value, item.name) for item in fields(value)}
    elif isinstance(value, tuple):
        value = {str(i): entry for i, entry in enumerate(value)}
    found: dict[str, Tensor] = {}
    for key, entry in value.items():
        found |= flatten(entry, f"{name}/{quote(key, safe='')}")
    return found or {f"{name}/": torch.empty(0)}  # so that an empty mapping comes back


def unflatten(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the nested mappings that `flatten` took apart."""
    root: dict[str, Any] = {}
    for path, value in tensors.items():
        *above, name = map(unquote, path.split("/"))
        node = root
        for key in above:
            node = node.setdefault(key, {})
        if name:
            node[name] = value
    return root


# Configs: how the parts of a solve are written down and loaded again


def loss_config(loss: LossLike) -> dict[str, Any] | None:
    """Return how to load a loss again, None if some term was made by hand."""
    if isinstance(loss, Balanced):
        inner = loss_config(loss.sum)
        return None if inner is None else {"balanced": inner, "limit": loss.limit, "name": loss.name}
    if not isinstance(loss, WeightedSum):
        config, pictures = registry.config(loss), loss.references() if isinstance(loss, Loss) else ()
        return config and config | {"references": len(pictures)}
    terms = [
        {"weight": term.weight, "name": term.name, "loss": loss_config(term.loss), "ramps": [*map(asdict, term.ramps)]}
        for term in loss.terms
    ]
    return None if any(term["loss"] is None for term in terms) else {"terms": terms, "name": loss.name}


def texts(value: Any) -> Iterator[str]:
    """List every text in an option, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from texts(inner)


def _old_manifest(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        found = None
    return found if isinstance(found, dict) else {"run": "unreadable"}


def versions() -> dict[str, str]:
    """Return what a solve was made with."""
    try:
        ours = version("guideflow")
    except PackageNotFoundError:  # a checkout on the path; what was solved is saved all the same
        ours = "not installed"
    return {"guideflow": ours, "torch": torch.__version__, "python": platform.python_version()}


def _pictures(batches: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, tuple[Tensor, dict[str, str]]]:
    found: dict[str, tuple[Tensor, dict[str, str]]] = {}
    common = {"run": about["run"], "configs": json.dumps(about["configs"]), "guideflow": versions()["guideflow"]}
    for kind, batch in batches.items():
        for i, image in enumerate(batch):
            if image.dim() == 3 and len(image) == 3 and image.min() >= -1e-3 and image.max() <= 1 + 1e-3:
                own = {name: about["images"][i][name] for name in ("prompt", "seed", "loss")}
                metadata = {f"guideflow:{name}": str(value) for name, value in (own | common | {"kind": kind}).items()}
                found[f"{kind}-{i:02d}.png"] = image, metadata
    return found


def _table(history: Mapping[str, Tensor]) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["iteration", "image", *history])
    for iteration, rows in enumerate(zip(*(column.tolist() for column in history.values()), strict=True)):
        for i, values in enumerate(zip(*rows, strict=True)):
            writer.writerow([iteration, i, *(f"{value:.9g}" for value in values)])
    return file.getvalue()
