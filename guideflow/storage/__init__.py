"""Solves on disk: images for people, a manifest and files of tensors for `resume`.

What does not change from one save of a run to the next, references among it, is written once. Files that resuming needs
have the checksum of their content in their name, and none is ever changed: the manifest names them and is replaced
last, in one step, so a save that is cut short or finds the disk full leaves the previous one whole.
"""

import csv
import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guideflow import images
from guideflow._files import is_left, write_whole
from guideflow._given import plain_number
from guideflow.errors import CannotResume, GuideflowError
from guideflow.provenance import credentials, publish
from guideflow.provenance.statement import statement
from guideflow.storage.folder import MANIFEST, check_folder, inside, read_manifest
from guideflow.storage.origins import versions as versions
from guideflow.storage.records import flatten

FORMAT = 3
"""Of the files. 2, which had all tensors in one, is read too; a run that was saved in another one is refused."""
_TENSORS = r"start-[0-9a-f]{8}-[0-9a-f]{16}\.safetensors|state-[0-9a-f]{8}-\d{6,}(-[0-9a-f]{16})?\.safetensors"
_REFERENCE = r"reference-[0-9a-f]{16}\.png"
_OURS = re.compile(rf"{_TENSORS}|{_REFERENCE}|(un)?guided-\d{{2,}}\.png|history\.csv")
"""What a save writes beside the manifest; on the word of a manifest nothing else is read or removed."""


def write(
    folder: Path,
    about: Mapping[str, Any],
    start: Mapping[str, Any],
    state: Mapping[str, Any],
    references: Sequence[Tensor],
    history: Mapping[str, Tensor],
    pictures: Mapping[str, Tensor],
    *,
    overwrite: bool,
) -> None:
    """Write a solve to a folder, or leave it as it was.

    `start` is what stays the same over the run and `state` what does not, both for `read`; `history` and `pictures` are
    for people. What is no RGB image is left out of `pictures`; the others carry what `about["images"]` says of each.
    """
    old, run = check_folder(folder, about["run"], overwrite=overwrite), about["run"][:8]
    kept, loose = _as_pictures(references)
    files: dict[str, bytes | Tensor] = {
        **{name: picture for name, picture in zip(kept, references, strict=True) if name},
        **_tensor_file(f"start-{run}", {**start, "references": loose}),
        **_tensor_file(f"state-{run}-{about['iteration']:06d}", state),
    }
    tensors = [name for name in files if name.endswith(".safetensors")]
    # All text before any file: what it cannot hold is no reason for half a save.
    named, table = _pictures(pictures, about), _table(history).encode()
    about = {"references": kept, "files": [*files, "history.csv", *named], **about}
    manifest = json.dumps({"format": FORMAT, "tensors": tensors, **about}, indent=1, default=_plain)
    listed = old.get("files")
    before = {str(name) for name in listed if _OURS.fullmatch(str(name))} if isinstance(listed, list) else set()
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    written: list[str] = []
    try:
        for name, content in files.items():
            if not _is_there(folder / name, content):
                written.append(name)
                _write(folder / name, content)
        for name, (picture, metadata) in named.items():
            written.append(name)
            images.save_image(folder / name, picture, metadata, partial(signed, name=name))
        written.append("history.csv")
        write_whole(folder / "history.csv", table)
        write_whole(folder / MANIFEST, (manifest + "\n").encode())
    except BaseException:
        _remove(folder, set(written) - before)
        if made and not any(folder.iterdir()):
            folder.rmdir()
        raise
    # What a save that was killed left, too.
    stale = re.compile(
        rf"(state|start)-{run}-[0-9a-f-]+\.safetensors|\.({_OURS.pattern}|{MANIFEST})-[0-9a-f]{{32}}\.part"
    )
    found = filter(stale.fullmatch, os.listdir(folder))
    left = {name for name in found if not name.endswith(".part") or is_left(folder / name)}  # others may be writing
    _remove(folder, (left | before) - {*files, *named, "history.csv"})


def forget(folder: Path) -> None:
    """Remove from a folder what a save has written there, and nothing else; a manifest names what that is."""
    with suppress(CannotResume, OSError, ValueError, RecursionError):
        listed = read_manifest(folder / MANIFEST).get("files")
        names = {str(name) for name in listed if _OURS.fullmatch(str(name))} if isinstance(listed, list) else set()
        _remove(folder, names)
    _remove(folder, {MANIFEST})


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], list[Tensor] | None]:
    """Return the manifest, the tensors and the references of a folder, or raise `CannotResume`.

    References are None in format 2, where they are among the tensors.
    """
    from safetensors.torch import load_file

    if not (folder / MANIFEST).is_file():
        why = f"No solution is saved in {folder}: no {MANIFEST}."
        raise CannotResume(f"{why} Give the folder of `Solution.save`.").as_typed(
            f"{why} Give the folder that `guideflow run --out` wrote."
        )
    manifest = read_manifest(folder / MANIFEST)
    if manifest["format"] not in (2, FORMAT):
        raise CannotResume(
            f"{folder} was saved in format {manifest['format']}; this guideflow reads {FORMAT}. Install the "
            f"version that saved it: guideflow {manifest.get('versions', {}).get('guideflow')}."
        )
    names, tensors = manifest["tensors"], dict[str, Tensor]()
    for name in [names] if isinstance(names, str) else names:
        file = inside(folder, name, _TENSORS)
        tensors |= load_file(file)
        with file.open("rb") as content:
            digest = hashlib.sha256()
            while block := content.read(2**20):
                digest.update(block)
        if manifest["format"] == FORMAT and f"-{digest.hexdigest()[:16]}." not in name:
            raise CannotResume(
                f"{file} is not what was saved: its checksum is another. Give another copy of the folder."
            )
    if manifest["format"] == 2:
        return manifest, tensors, None
    references = []
    for i, name in enumerate(manifest["references"]):
        if name is None:
            references.append(tensors.pop(f"references/{i}"))
            continue
        references.append(images.read_image(inside(folder, name, _REFERENCE))[0])
        if _as_pictures(references[-1:])[0] != [name]:
            raise CannotResume(f"{folder / name} is not the reference that was saved. Give another copy of the folder.")
    return manifest, tensors, references


def _as_pictures(references: Sequence[Tensor]) -> tuple[list[str | None], dict[str, Tensor]]:
    """Name the references that a PNG holds without loss by their content, and return the others by their number."""
    names, loose = list[str | None](), dict[str, Tensor]()
    for i, one in enumerate(references):
        image = one.detach().cpu()
        pixels = (image.clamp(0, 1) * 255).round().nan_to_num().to(torch.uint8)
        exact = image.dtype == torch.float32 and image.dim() == 3 and len(image) == 3 and image.numel() > 0
        if exact and torch.equal(pixels.float() / 255, image):
            content = f"{tuple(image.shape)}".encode() + pixels.contiguous().numpy().tobytes()
            names.append(f"reference-{hashlib.sha256(content).hexdigest()[:16]}.png")
        else:
            names.append(None)
            loose[str(i)] = image
    return names, loose


def _tensor_file(name: str, records: Mapping[str, Any]) -> dict[str, bytes]:
    from safetensors.torch import save as serialise

    # Two names may share memory, which safetensors refuses.
    tensors = {path: one.clone() for key, record in records.items() for path, one in flatten(record, key).items()}
    content = serialise(tensors)
    return {f"{name}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors": content}


def _is_there(path: Path, content: bytes | Tensor) -> bool:
    """Tell whether a save has written this before, as names tell contents apart."""
    there = path.is_file() and not path.is_symlink() and path.stat().st_size > 0
    return there and (isinstance(content, Tensor) or path.read_bytes() == content)


def _write(path: Path, content: bytes | Tensor) -> None:
    if isinstance(content, Tensor):
        images.save_image(path, content)
    else:
        write_whole(path, content)


def _remove(folder: Path, names: set[str]) -> None:
    for name in names:
        with suppress(OSError):
            (folder / name).unlink()


def _plain(value: Any) -> Any:
    """Write down what JSON does not know: after the work nothing is refused."""
    plain = plain_number(value)
    return plain if isinstance(plain, int | float | str) else str(value)


def _pictures(batches: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, tuple[Tensor, dict[str, str]]]:
    found: dict[str, tuple[Tensor, dict[str, str]]] = {}
    for kind, batch in batches.items():
        if batch.dim() != 4 or batch.shape[1] != 3 or batch.min() < -1e-3 or batch.max() > 1 + 1e-3:
            continue
        for i, (picture, says) in enumerate(publish(batch, bool(about["settings"].get("watermark")))):
            metadata = statement(about, i, kind) | {f"guideflow:{name}": text for name, text in says.items()}
            found[f"{kind}-{i:02d}.png"] = picture, metadata
    return found


def signed(content: bytes, name: str) -> bytes:
    """Return the content of a PNG with content credentials, where there is a certificate for them."""
    if not credentials.wanted():
        return content
    try:
        return credentials.sign(content, name)
    except GuideflowError as error:  # after the work nothing is refused
        warnings.warn(f"{name} carries no content credentials: {error}", stacklevel=2)
        return content


def _table(history: Mapping[str, Tensor]) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["iteration", "image", *history])
    for iteration, rows in enumerate(zip(*(column.tolist() for column in history.values()), strict=True)):
        for i, values in enumerate(zip(*rows, strict=True)):
            writer.writerow([iteration, i, *(f"{value:.9g}" for value in values)])
    return file.getvalue()
