"""What may be missing: a package, or weights."""

from __future__ import annotations

import importlib
import importlib.util
import shlex
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from guideflow._told import shorten
from guideflow.errors import MissingExtra, MissingWeights

SLOW = (
    "PIL",
    "accelerate",
    "diffusers",
    "gradio",
    "insightface",
    "kornia",
    "matplotlib",
    "onnxruntime",
    "open_clip",
    "rich",
    "scipy",
    "segmentation_models_pytorch",
    "timm",
    "torchvision",
    "transformers",
    "typer",
)
"""Packages that no module imports at its top; pyproject.toml bans them by the same names."""

MOST_PIXELS_A_SIDE = 2**16

# tqdm says this when others import it in a notebook without widgets: its bars are text then; guideflow's need none.
warnings.filterwarnings("ignore", message="IProgress not found")


def require(module: str, /, *, extra: str) -> ModuleType:
    """Import a package that is slow to import or may not be installed.

    Arguments:
        module: Its import name.
        extra: The extra of guideflow that installs it.

    Returns:
        The module.

    Raises:
        MissingExtra: If it is not installed. The message names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        cure = f"pip install 'guideflow[{extra}]'"
        raise MissingExtra(f"{package} is needed here and is not installed. Install it with: {cure}") from error


def package_folders(name: str) -> list[Path]:
    """List the folders of a package, `NAME` or `NAME.INNER`, without importing it: whoever named it may be anybody."""
    top, *inner = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # uninstalled, or with a name that no package may have
        return []
    return [Path(place, *inner) for place in (spec and spec.submodule_search_locations) or ()]


@contextmanager
def without_progress_bars(extra: str) -> Iterator[None]:
    """Switch the bars that transformers draws for every small file off, and back to what they were."""
    logging = require("transformers", extra=extra).utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def missing_weights(given: str | Path, option: str, why: object, files: Sequence[str] = ()) -> MissingWeights:
    """Make the error about weights that are on the Hub and cannot be had here, with the command to type elsewhere.

    Arguments:
        given: Hub id, or `owner/name:file`.
        option: The keyword to point to the files with.
        why: The reason, an exception or a phrase.
        files: What to download of it, names or patterns; everything by default.
    """
    repo, _, file = str(given).partition(":")
    reason = shorten((" ".join(str(why).split()) or type(why).__name__).rstrip("."), 90)
    folder = repo.rpartition("/")[2]
    where = f"{folder}/{file}" if file else folder
    include = "--include " if any("*" in name for name in files) else ""
    command = ["hf download", repo, *(include + shlex.quote(name) for name in files), "--local-dir", folder]
    return MissingWeights(
        f"The weights of {given!r} are not on this machine and cannot be downloaded ({reason}).\n"
        f"Where there is network, type:\n{_lines(command)}\n"
        f"Bring that folder here and give {option}={where!r}, the path you put it at. Without --local-dir\n"
        f"they go to the cache, where {option}={str(given)!r} finds them."
    )


def _lines(parts: Sequence[str], width: int = 96) -> str:
    """Write a command on lines that a shell reads as one."""
    lines = [f"  {parts[0]}"]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) > width:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {part}"
    return "\n".join(lines)
