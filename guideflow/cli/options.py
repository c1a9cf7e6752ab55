"""The options of `guideflow run`, and how NAME:key=value is read."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from guideflow import registry
from guideflow.cli import completion
from guideflow.errors import GuideflowError, InvalidArgument
from guideflow.registry.entries import FILE_NAME
from guideflow.registry.loading import failed

_WEIGHT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*\*\s*")
_WORDS = {"true": True, "false": False, "none": None}

_NAMED = "NAME"

SamplerOption = Annotated[
    str | None,
    typer.Option(help="A name, with options: NAME:key=value,...", metavar=_NAMED, autocompletion=completion.samplers),
]
LossOption = Annotated[
    list[str] | None,
    typer.Option(
        help="A name, with options and a weight: WEIGHT*NAME:key=value,... Repeat to add losses.",
        metavar=_NAMED,
        autocompletion=completion.losses,
    ),
]
SolverOption = Annotated[
    str | None,
    typer.Option(
        help="A name, with options: NAME:key=value,...",
        metavar=_NAMED,
        show_default="auto",
        autocompletion=completion.solvers,
    ),
]
PromptOption = Annotated[
    list[str] | None, typer.Option(help="Once for all images, or repeat: one per image.", metavar="TEXT")
]
NegativePromptOption = Annotated[
    list[str] | None, typer.Option(help="What the image should not show; as --prompt.", metavar="TEXT")
]


def read_seeds(text: str) -> range:
    """Read a seed, or FROM:TO as Python counts: 0:8 are 0 to 7."""
    found = re.fullmatch(r"(\d+)(?::(\d+))?", text.strip())
    first, end = (int(found[1]), int(found[2] or int(found[1]) + 1)) if found else (0, 0)
    if not first < end <= 2**63 or end - first > 10_000:
        raise typer.BadParameter(f"{text!r} is neither a number from 0 on nor a range such as 0:8, which is 0 to 7.")
    return range(first, end)


SeedOption = Annotated[
    list[range] | None,
    typer.Option(
        help="A number, or a range: 0:8 is 0 to 7. Repeat for more images.",
        metavar="N or N:N",
        show_default="0",
        parser=read_seeds,
    ),
]
IterationsOption = Annotated[
    int | None,
    typer.Option(help="Number of updates, those of a resumed run included.", metavar="N", show_default="12", min=0),
]
CandidatesOption = Annotated[
    int | None,
    typer.Option(
        help="Noises to choose each image's start from, by the loss.", metavar="N", show_default="the solver's", min=1
    ),
]
RadiusOption = Annotated[
    float | None,
    typer.Option(
        help="How new the second half of the candidates is: 1 entirely; less, near the best so far.",
        metavar="SHARE",
        show_default="the solver's",
        min=0,
        max=1,
    ),
]
PatienceOption = Annotated[
    int | None,
    typer.Option(help="Stop an image that has not improved for N iterations.", metavar="N", min=1),
]
TargetOption = Annotated[
    float | None, typer.Option(help="Stop an image as soon as its loss is this low.", metavar="LOSS")
]
TimeOption = Annotated[float | None, typer.Option(help="Stop after so many seconds.", metavar="SECONDS")]
KeepOption = Annotated[
    str | None,
    typer.Option(help="The iterate to keep of each image: best or last.", metavar="WHICH", show_default="best"),
]
GradientModeOption = Annotated[
    str | None,
    typer.Option(
        help="full (fastest), windowed, checkpointed (least memory) or auto (what fits); the images are the same.",
        metavar="MODE",
        show_default="full",
    ),
]
StartOption = Annotated[
    list[str] | None, typer.Option(help="Picture to begin at instead of noise; once for all images, or one per image.")
]
StrengthOption = Annotated[
    float | None,
    typer.Option(help="With --start: how much of it to forget, above 0 and at most 1.", show_default="0.6"),
]
MaskOption = Annotated[
    list[str] | None, typer.Option(help="With --start: picture that is white where the start may change; as --start.")
]
PasteBackOption = Annotated[
    bool, typer.Option("--paste-back", help="With --mask: put pixels outside of it back exactly as they were.")
]
FitOption = Annotated[
    str | None,
    typer.Option(help="With --start: crop or pad, where it has other proportions than the sampler's.", metavar="HOW"),
]
OutOption = Annotated[Path, typer.Option(help="Folder to save to.", metavar="FOLDER")]
CheckpointOption = Annotated[
    int,
    typer.Option(help="Iterations from one save to the next: what a killed process loses at most.", metavar="N", min=1),
]
SaveEveryOption = Annotated[
    int | None,
    typer.Option(help="Write the current images to iterations/ in --out every N iterations.", metavar="N", min=1),
]
ReferencesOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of reference pictures, for every loss that is given no reference of its own.", metavar="FOLDER"
    ),
]
WatermarkOption = Annotated[
    bool | None,
    typer.Option(
        "--watermark/--no-watermark",
        help="Whether saved pictures carry an invisible mark that says that they are generated.",
        show_default="where a loss pulls towards a face",
    ),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run saved in --out.")]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="With --resume: read files outside --out that the run names.")
]
FolderArgument = Annotated[Path, typer.Argument(help="Folder of a sweep, of a saved run, or of several.")]
MetricOption = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME or NAME:key=value,...; repeat for several.", show_default="the protocol's, or what applies"
    ),
]
ProtocolOption = Annotated[str | None, typer.Option(help="Name of a protocol, or a .yaml file: what is measured.")]
BaselineOption = Annotated[
    str | None, typer.Option(help="Configuration that others are compared with.", show_default="the first")
]
AgainOption = Annotated[bool, typer.Option("--again", help="Measure again what has been measured.")]
CasesOption = Annotated[int, typer.Option(help="Cases whose pictures are shown, the worst first.", min=0)]
ReportOption = Annotated[Path | None, typer.Option(help="Where to write.", show_default="FOLDER/report.html")]
ForceOption = Annotated[bool, typer.Option("--force", help="Write over another run that is saved in --out.")]
OpenOption = Annotated[bool, typer.Option("--open", help="Show the comparison when it is done.")]
GifOption = Annotated[bool, typer.Option("--gif", help="Write the way there as guided.gif.")]
Mp4Option = Annotated[bool, typer.Option("--mp4", help="Write the way there as guided.mp4; needs imageio.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

PortOption = Annotated[
    int | None, typer.Option(help="Port of 127.0.0.1.", show_default="7860 or a free one", min=1024, max=65535)
]
BrowserOption = Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")]


def load(kind: str, text: str) -> Any:
    """Load the "sampler", "loss" or "solver" that NAME:key=value,... stands for."""
    name, rest = split_name(text)
    given = parse_options(rest, registry.factory(kind, name))
    try:
        return getattr(registry, f"load_{kind}")(name, **given)
    except GuideflowError:
        raise
    except Exception as error:
        raise failed(kind, name, given, error) from error


def split_name(text: str) -> tuple[str, str]:
    """Split what was typed into a name and its options: `NAME:options` or `path/to/file.py:Name:options`."""
    found = re.fullmatch(f"({FILE_NAME.pattern})(?::(.*))?", text, re.DOTALL)
    if found:
        return found[1], found[4] or ""
    name, _, options = text.partition(":")
    return name.strip(), options


def load_losses(texts: list[str], references: Path | None = None) -> Any:
    """Load and add [WEIGHT*]NAME:key=value,... of each text, at least one.

    Arguments:
        texts: As typed.
        references: What a loss has as its reference that takes one and is given none.
    """
    from guideflow.losses.base import Term, WeightedSum, as_sum

    total: Any = 0
    for text in texts:
        weight = _WEIGHT.match(text)
        if weight is None and "*" in text.partition(":")[0]:
            raise InvalidArgument(
                f"Got --loss {text!r}. Expected a number before the *, as in 0.5*style:reference=a.png."
            )
        typed = text[weight.end() :] if weight else text
        loss = load("loss", typed if references is None else _with_reference(typed, references))
        if isinstance(loss, WeightedSum) and (weight or len(texts) > 1):
            name = loss.name or split_name(typed)[0].rpartition(":")[2]
            loss = WeightedSum((Term(1.0, loss, name),))  # stays one term, which can be loaded again by its name
        if weight is None and len(texts) == 1:
            return loss
        total += (float(weight[1]) if weight else 1.0) * as_sum(loss)
    return total


def _with_reference(text: str, folder: Path) -> str:
    name, rest = split_name(text)
    made = registry.factory("loss", name)
    takes = any(option.name == "reference" for option in registry.options(made) or ())
    if not takes or "reference" in parse_options(rest, made):
        return text
    return f"{name}:{','.join(filter(None, (rest, f'reference={folder}')))}"


def parse_options(text: str, factory: Callable[..., Any]) -> dict[str, Any]:
    """Read key=value,key=value. A part without = belongs to the value before it, so paths may hold commas.

    A solver inside a solver is written by its name: `momentum:solver=anchored`, and with options in brackets where
    there are several, `momentum:solver=(anchored:scale=2,gain=unit),beta=0.8`.
    The annotations of the factory tell which values stay text.
    """
    parts: list[str] = []
    for part in text.split(",") if text else []:
        inside = bool(parts) and "=(" in parts[-1] and parts[-1].count("(") > parts[-1].count(")")
        if not inside and re.match(r"\s*[A-Za-z_]\w*\s*=", part):
            parts.append(part)
        elif parts:
            parts[-1] += f",{part}"
        else:
            raise InvalidArgument(f"Got the options {text!r}. Expected key=value,key=value as in scale=2,anchor=fixed.")
    types = {option.name: option.type for option in registry.options(factory) or ()}
    pairs = (part.split("=", 1) for part in parts)
    return {key.strip(): parse_value(value.strip(), types.get(key.strip(), "")) for key, value in pairs}


def parse_value(text: str, type: str = "") -> Any:
    """Read a number, true, false, none, a JSON list, or else text; `type` is the annotation of the option.

    A number stays text where text is expected, and a name is loaded where a solver is.
    """
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":  # as messages write it
        return text[1:-1]
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if re.search(r"Solver\b", type):
        return load("solver", text.removeprefix("(").removesuffix(")") if text.startswith("(") else text)
    if re.search(r"\b(str|Path|PathLike)\b", type) and not re.search(r"\b(int|float)\b", type):
        return text
    for read in (int, float, json.loads) if text.startswith("[") else (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
