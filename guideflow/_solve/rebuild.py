"""Load the parts of a saved solve again, on the word of a manifest that may come from anybody."""

import copy
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from guideflow import registry
from guideflow.errors import CannotResume
from guideflow.losses.balancing import Balanced
from guideflow.losses.base import Term, WeightedSum, as_sum
from guideflow.losses.schedules import Ramp
from guideflow.storage.recipes import REFERENCES, digest, plugins, texts, typed_losses

_PICTURES = re.compile("Tensor|ImageSource|References")
"""In the annotation of an option that may be a tensor."""


def rebuild(
    configs: Mapping[str, Any],
    folder: Path | None,
    pictures: Sequence[Tensor],
    files: Mapping[str, str],
    trust: bool,
    copies: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Load parts again, "sampler", "loss" or "solver", as their configs say, or raise `CannotResume`.

    Only what installed plugins offer is made, from plain options. Reference pictures are the saved ones, and so are
    others of which there are `copies` by checksum. Whatever else the configs name outside the folder is read with
    `trust` only; a name on the Hub is, as nothing fetched is run. What is another file than when the solve was made, by
    the checksums in `files`, is refused.
    """
    for kind, config in configs.items():
        if why := "made by hand" if config is None else runs_code(config):
            raise _give_again(kind, config, why)
    asked = configs  # before saved pictures stand in the place of paths
    try:
        configs, saved = copy.deepcopy(configs), iter(pictures)
        for part in plugins(configs.get("loss")):
            own, option = list(islice(saved, part.get("references", 0))), _takes_pictures(part["name"])
            if own and len(own) == len(list(texts(part["options"].get(option)))):
                part["options"][option] = _put(iter(own), part["options"][option])
        kept = {text: copies[files[text]] for text in files if files[text] in copies}
        found = [(text, part["name"]) for part in plugins(configs) for text in texts(part["options"])]
        named = [(text, name) for text, name in found if text not in kept]
        outside = dict.fromkeys(f"{text!r} ({name})" for text, name in named if _is_outside(text, folder))
        if outside and not trust:
            why = f"The solution names files outside of {folder or 'a saved folder'}: {', '.join(outside)}."
            why = f"{why} If they are what you want to be read, type"
            raise CannotResume(f"{why} `gf.resume(..., trust=True)`.").as_typed(f"{why} --trust beside --resume.")
        with ExitStack() as stack:
            if any(text in kept for text, _ in found):
                place = Path(stack.enter_context(TemporaryDirectory(prefix="guideflow-")))
                paths = {text: _put_down(content, files[text], place, text) for text, content in kept.items()}
                configs = {kind: _in_place_of(config, paths) for kind, config in configs.items()}
            made = {kind: _load(kind, config) for kind, config in configs.items()}
        seen = [one.cpu() for one in as_sum(made["loss"]).references()] if "loss" in made else pictures
        if len(seen) != len(pictures) or not all(map(torch.equal, seen, pictures)):
            why = "The loss that the saved solution names has other reference images than those saved with it."
            sizes = [(_shape(now), _shape(then)) for now, then in zip(seen, pictures, strict=False)]
            if len(seen) == len(pictures) and any(now != then for now, then in sizes):
                now, then = next(pair for pair in sizes if len({*pair}) > 1)
                why = f"{why[:-1]} ({now} pixels, not {then}): another version of it kept more or less of a photograph."
                why = f"{why} Begin anew with `guideflow run` or `gf.solve`, or, if it is the same, give it again"
            else:
                why = f"{why} Give it again"
            again = typed_losses(asked["loss"])
            raise CannotResume(f"{why}: `gf.resume(..., loss=loss)`.").as_typed(f"{why}{again and f': {again}'}.")
        for text, name in named:
            if text in files and digest(text) != files[text]:
                why = (
                    f"{text!r} ({name}) is another file than the one that the solve was made with. Bring that one back"
                )
                raise CannotResume(
                    f"{why}, or give what is made of it again, as in `gf.resume(..., loss=loss)`."
                ).as_typed(f"{why}.")
        return made
    except CannotResume:
        raise
    except Exception as error:  # what a damaged manifest makes a plugin raise is not ours to know
        raise CannotResume(f"The saved {' and '.join(configs)} cannot be loaded again: {error}") from error


def _give_again(kind: str, config: Any, why: str) -> CannotResume:
    """Make the error about what has to be given again: on the command line the whole of it, as it was typed."""
    before = f"The {kind} was {why}, so the saved solution cannot load it again."
    again = typed_losses(config) if kind == "loss" else ""
    if kind != "loss" and config is not None:
        again = f"--{kind} {config['name']} with its options"
    typed = f"{before} Give it again beside --resume: {again}" if again else f"{before} Go on with it in Python."
    return CannotResume(f"{before} Give it again: `gf.resume(..., {kind}={kind})`.").as_typed(typed)


def runs_code(config: Any) -> str:
    """Say how a part was made that runs the code of a file while it loads; empty if it does not."""
    for part in plugins(config):
        if registry.is_file(str(part.get("name"))):
            return f"read from the file {part['name']}"
        if found := [name for name in ("allow_pickle", "trust_remote_code") if part["options"].get(name)]:
            return f"made with {found[0]}=True"
    return ""


def _shape(picture: Tensor) -> str:
    """Write the size of a picture, as in 640x480."""
    return f"{picture.shape[-1]}x{picture.shape[-2]}"


def _takes_pictures(loss: str) -> str:
    """Return the option in which a loss takes its reference pictures as tensors too; empty if it has none."""
    options = registry.options(registry.factory("loss", loss)) or ()
    names = (option.name for option in options if option.name in REFERENCES and _PICTURES.search(option.type))
    return next(names, "")


def _load(kind: str, config: Any) -> Any:
    if "terms" in config:
        terms = [(term, tuple(Ramp(**ramp) for ramp in term["ramps"])) for term in config["terms"]]
        made = tuple(Term(one["weight"], _load("loss", one["loss"]), one["name"], ramps) for one, ramps in terms)
        return WeightedSum(made, config["name"])
    if "balanced" in config:
        return Balanced(_load(kind, config["balanced"]), config["limit"], config["name"])
    load = {"sampler": registry.load_sampler, "loss": registry.load_loss, "solver": registry.load_solver}[kind]
    options = config["options"]
    if kind == "solver":  # one inside another is an option that is a config itself
        options = {key: _load(kind, value) if isinstance(value, dict) else value for key, value in options.items()}
    return load(config["name"], **options)


def _put_down(content: Tensor, checksum: str, place: Path, name: str) -> str:
    """Write the saved copy of a picture where a loss can read it, and return its path."""
    written = content.cpu().numpy().tobytes()
    if hashlib.sha256(written).hexdigest() != checksum:
        raise CannotResume(f"The saved copy of {name!r} is damaged. Give another copy of the folder.")
    path = place / f"{checksum[:16]}{Path(name).suffix}"
    path.write_bytes(written)
    return str(path)


def _in_place_of(value: Any, paths: Mapping[str, str]) -> Any:
    """Put other paths in the place of the texts that they are given for, however deep."""
    if isinstance(value, dict):
        return {key: _in_place_of(inner, paths) for key, inner in value.items()}
    if isinstance(value, list):
        return [_in_place_of(inner, paths) for inner in value]
    return paths.get(value, value) if isinstance(value, str) else value


def _is_outside(text: str, folder: Path | None) -> bool:
    """Tell whether a text is an address, or names something on this machine that is not in a folder."""
    for name in filter(None, (text, text.partition(":")[2])):  # https://..., local-dir:...
        path = Path(os.path.expanduser(name))
        if path.is_absolute() or ".." in path.parts or os.path.exists(path):
            inner = chain([path], path.rglob("*"))  # a link may lead out
            if folder is None or not all(one.resolve().is_relative_to(folder.resolve()) for one in inner):
                return True
    return False


def _put(pictures: Iterator[Tensor], value: Any) -> Any:
    """Put pictures in the place of the texts in an option."""
    return [_put(pictures, inner) for inner in value] if isinstance(value, list) else next(pictures)
