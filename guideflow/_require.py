"""What any module may ask for: a package that may be missing, options that make sense, weights that may be missing."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import math
import numbers
import os
import shlex
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from decimal import Decimal
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from guideflow._files import hold
from guideflow.errors import InvalidArgument, MissingExtra, MissingWeights

if TYPE_CHECKING:
    import torch
    from PIL import Image as PILImage

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


def one_of(name: str, given: object, known: Sequence[object]) -> None:
    """Refuse an option that is none of the known words."""
    try:
        fits = given in known
    except (RuntimeError, ValueError):  # of arrays and tensors, which compare number by number
        fits = False
    if not fits:
        raise InvalidArgument(f"Got {name}={said(given)}. Expected one of: {', '.join(map(repr, known))}.")


def in_range(name: str, given: object, low: float = -math.inf, high: float = math.inf, *, ends: str = "[)") -> None:
    """Refuse an option that is no finite number from `low` to `high`; a round bracket in `ends` leaves that end out."""
    real = isinstance(given, numbers.Real) and not isinstance(given, bool)  # numpy's are registered as such
    if real and not _huge(given) and math.isfinite(given):  # type: ignore[arg-type]
        above = given > low if ends[0] == "(" else given >= low  # type: ignore[operator]
        if above and (given <= high if ends[1] == "]" else given < high):  # type: ignore[operator]
            return
    within = "" if low == -math.inf else f" above {low:g}" if ends[0] == "(" else f" of at least {low:g}"
    within = f" in {ends[0]}{low:g}, {high:g}{ends[1]}" if high < math.inf else within
    point = " (whole ones below 2**63)" if _huge(given) else ""
    raise InvalidArgument(f"Got {name}={said(given)}. Expected a finite number{within}{point}.")


def count(name: str, given: object, low: int = 1, high: int | None = None) -> None:
    """Refuse an option that is no whole number from `low` to `high`, inclusive."""
    whole = isinstance(given, numbers.Integral) and not isinstance(given, bool) and not _huge(given)
    if not whole or given < low or (high is not None and given > high):  # type: ignore[operator]
        within = f"of at least {low}" if high is None else f"from {low} to {high}"
        below = " and below 2**63" if high is None and _huge(given) else ""
        raise InvalidArgument(f"Got {name}={said(given)}. Expected a whole number {within}{below}.")


def _huge(given: object) -> bool:
    """Tell whether it is a whole number with which neither PyTorch nor a file of columns can do anything."""
    return isinstance(given, numbers.Integral) and not -(2**63) <= int(given) < 2**63


def said(given: object) -> str:
    """Write a value as Python does, in one line of a message; of a number of thousands of digits it writes none."""
    try:
        return shorten(repr(given), 200)
    except Exception:  # of others' classes, and of whole numbers of more digits than Python writes
        if not isinstance(given, int):
            return f"a {type(given).__name__}"
        return f"a whole number of about {int(given.bit_length() * math.log10(2))} digits"


def as_text(name: str, given: str) -> str:
    """Read a text that UTF-8 can write; what Python did not take for UTF-8, as in the locale C, is read as it."""
    try:
        return given.encode(errors="surrogateescape").decode()
    except UnicodeError as error:  # bytes of another encoding, or half of a surrogate pair
        before = f"Got {said(given)} in `{name}`, which holds bytes of another encoding than UTF-8."
        raise InvalidArgument(f"{before} Give it in UTF-8.").as_typed(
            f"{before} Type `export LC_ALL=C.UTF-8` and the command again, or the text through `iconv -t utf-8`."
        ) from error


def as_texts(name: str, given: object) -> list[str]:
    """Read one text, or several; None is none."""
    several = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(several, list | tuple) or not all(isinstance(one, str) for one in several):
        raise InvalidArgument(f"Got {name}={said(given)}. Expected a text, or a list of texts.")
    return [as_text(name, one) for one in several]


def as_place(name: str, given: object, example: str) -> Path:
    """Read the name of a file or folder, which need not exist."""
    if isinstance(given, str | os.PathLike) and isinstance(path := os.fspath(given), str) and path and "\0" not in path:
        return Path(path)
    raise InvalidArgument(f"Got {said(given)} as {name}. Expected a path, such as {example!r}.")


def as_numbers(name: str, given: object) -> tuple[float, ...]:
    """Read several finite numbers, of a list, a tuple, an array or a tensor; a text is none."""
    found: tuple[float, ...] | None = None
    if not isinstance(given, str | bytes | Mapping | Set):
        with suppress(TypeError, ValueError, OverflowError, RuntimeError):
            found = tuple(float(one) for one in given)  # type: ignore[attr-defined]
    if found is None or not all(map(math.isfinite, found)):
        raise InvalidArgument(f"Got {name}={said(given)}. Expected finite numbers, as a list.")
    return found


def as_size(given: object, name: str = "size") -> tuple[int, int]:
    """Read the side of a square, or (height, width), in whole pixels; a text is neither."""
    given = plain_number(given)
    sides: list[Any] = [given, given] if isinstance(given, numbers.Integral) else []
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        sides = [*given]
    whole = [isinstance(plain_number(one), int) and not isinstance(plain_number(one), bool) for one in sides]
    if len(sides) == 2 and all(whole) and 0 < min(sides) and max(sides) <= MOST_PIXELS_A_SIDE:
        return int(sides[0]), int(sides[1])
    raise InvalidArgument(
        f"Got {name}={said(given)}. Expected the side of a square, or (height, width), from 1 to {MOST_PIXELS_A_SIDE}."
    )


def plain_number(given: object) -> object:
    """Return the Python number that a number of numpy, or a tensor that holds one, stands for; all else as it is.

    Fractions and decimals become float, as JSON has no others.
    """
    item = getattr(given, "item", None)
    if callable(item) and getattr(given, "shape", None) == ():
        return item()
    return float(given) if isinstance(given, Fraction | Decimal) else given


def as_dtype(
    given: torch.dtype | str, known: Sequence[str] = ("float32", "bfloat16", "float16", "float64")
) -> torch.dtype:
    """Read a dtype that may be given by name, and is one of the known ones."""
    import torch  # only here: listings do without

    one_of("dtype", str(given).removeprefix("torch.") if isinstance(given, torch.dtype) else given, known)
    return getattr(torch, given) if isinstance(given, str) else given


def as_device(given: object) -> torch.device:
    """Read a device that this machine has.

    Raises:
        InvalidArgument: If it is no device of PyTorch's, or there is none here.
    """
    import torch

    try:
        device: torch.device = torch.device(given)  # type: ignore[call-overload]
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidArgument(f"Got device={said(given)}. Expected 'cpu', 'cuda', 'cuda:1' or 'mps'.") from error
    if device.type == "cpu":
        return torch.device("cpu")
    known = {"cuda": "NVIDIA or AMD GPU", "mps": "GPU of Apple's", "xpu": "GPU of Intel's"}
    module = getattr(torch, device.type, None)
    if device.type in known and not (module is not None and module.is_available()):
        raise InvalidArgument(
            f"Got device={said(given)}, but PyTorch finds no {known[device.type]} on this machine. Type device='cpu', "
            "or install a PyTorch that is built for the one there is."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidArgument(
            f"Got device={said(given)}, but there are {torch.cuda.device_count()} GPUs, from cuda:0 on."
        )
    why = cannot_compute(device)
    if why:
        raise InvalidArgument(
            f"Got device={said(given)}, where nothing can be computed here ({why}). Expected 'cpu', 'cuda' or 'mps'; "
            "type device='cpu'."
        )
    return device


def cannot_compute(device: torch.device) -> str:
    """Return why a gradient cannot be computed on a device, as on "meta", whose tensors hold nothing; empty if it can.

    Tried and not looked up: a GPU may be too old for the PyTorch there is, and the devices of extensions are not known.
    """
    import torch

    try:
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.full((1,), 2.0, device=device, requires_grad=True)
            (slope,) = torch.autograd.grad((x * x).sum(), x)
            return "" if x.device.type == device.type and slope.item() == 4 else "its numbers are wrong"
    except Exception as error:  # of each device its own: RuntimeError, NotImplementedError, AcceleratorError, ...
        return shorten((str(error).strip() or type(error).__name__).partition(". ")[0].rstrip("."), 120)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return a question with the near matches of what was typed, to end a message with; empty if there are none."""
    near = difflib.get_close_matches(given, list(known), n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def read_small(path: Path, most: int = 64 * 2**20) -> str:
    """Read a text in UTF-8 that somebody has written by hand, and nothing that has no end.

    Raises:
        OSError: If it is no file, as a pipe or a device is none, has more than so many bytes or cannot be opened.
        UnicodeDecodeError: If it is no text.
    """
    if not path.is_file():
        raise OSError(
            "it is a folder" if path.is_dir() else "it is no file" if path.exists() else "there is no such file"
        )
    if path.stat().st_size > most:
        raise OSError(f"it has more than {most >> 20} MB")
    return path.read_text(encoding="utf-8-sig")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; a link in its place, or in the way, is not followed."""
    partial = path.with_name(f".{path.name}-{uuid4().hex}.part")
    try:
        with partial.open("xb") as file:
            held = hold(file)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if held:  # until it is in its place
                os.replace(partial, path)
        if not held:
            os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):  # of a disk that is full Python does not say where
            error.filename = str(path)
        raise


def write_picture(path: Path, picture: PILImage.Image) -> None:
    """Write a picture of Pillow's as a PNG, whole or not at all."""
    picture.save(content := BytesIO(), format="PNG")
    write_whole(path, content.getvalue())


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


def number(value: float) -> str:
    """Write a loss so that it can be read: four decimals, or three digits where those would hide it."""
    return f"{value:.4f}" if value == 0 or 0.01 <= abs(value) < 10_000 else f"{value:.3g}"


def shorten(text: str, width: int) -> str:
    """Write a text on one line, shortened to whole words if it is longer, with dots for the rest."""
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    end = text.rfind(" ", width // 2, width - 3)  # a word that is longer than half of it, such as a path, is cut
    return f"{text[:end]} ..." if end > 0 else f"{text[: width - 3]}..."


def _lines(parts: Sequence[str], width: int = 96) -> str:
    """Write a command on lines that a shell reads as one."""
    lines = [f"  {parts[0]}"]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) > width:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {part}"
    return "\n".join(lines)
