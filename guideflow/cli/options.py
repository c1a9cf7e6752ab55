"""The options of `guideflow run` and of the commands that look something up."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from guideflow.cli import completion
from guideflow.cli.base import Command


class RunCommand(Command):
    """Shows its many options under headings."""

    panels: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "What to make": (
            "sampler", "loss", "solver", "no_preset", "prompt", "negative_prompt", "seed", "candidates",
            "candidate_radius", "reference_dir",
        ),
        "How far to go": ("iterations", "target_loss", "patience", "time_limit", "keep", "gradient_mode"),
        "From a photograph": ("start", "strength", "mask", "paste_back", "fit"),
        "What is written": (
            "out", "force", "save_every", "checkpoint_every", "gif", "mp4", "watermark", "open_", "json",
        ),
    }  # fmt: skip


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


def whole(low: int, high: int = 2**53) -> Callable[[object], int]:
    """Return what reads a whole number from `low` to `high`."""

    def read(text: object) -> int:  # a default is no text
        number = int(str(text)) if re.fullmatch(r"\s*[+-]?\d{1,18}\s*", str(text)) else None
        if number is None or not low <= number <= high:
            wanted = f"from {low} on" if high == 2**53 else f"from {low} to {high}"
            raise typer.BadParameter(f"{text!r} is no whole number {wanted}.")
        return number

    return read


def real(text: object) -> float:
    """Read a finite number."""
    try:
        number = float(str(text))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise typer.BadParameter(f"{text!r} is no number.")
    return number


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
    typer.Option(
        help="Number of updates, those of a resumed run included.",
        metavar="N",
        show_default="what the solver asks for, mostly 12",
        parser=whole(0),
    ),
]
CandidatesOption = Annotated[
    int | None,
    typer.Option(
        help="Noises to choose each image's start from, by the loss.",
        metavar="N",
        show_default="the solver's",
        parser=whole(1),
    ),
]
RadiusOption = Annotated[
    float | None,
    typer.Option(
        help="How new the second half of the candidates is: 1 entirely; less, near the best so far.",
        metavar="SHARE",
        show_default="the solver's",
        parser=real,
    ),
]
PatienceOption = Annotated[
    int | None,
    typer.Option(help="Stop an image that has not improved for N iterations.", metavar="N", parser=whole(1)),
]
TargetOption = Annotated[
    float | None, typer.Option(help="Stop an image as soon as its loss is this low.", metavar="LOSS", parser=real)
]
TimeOption = Annotated[float | None, typer.Option(help="Stop after so many seconds.", metavar="SECONDS", parser=real)]
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
    list[str] | None,
    typer.Option(help="Picture to begin at instead of noise; once for all images, or one per image.", metavar="FILE"),
]
StrengthOption = Annotated[
    float | None,
    typer.Option(
        help="With --start: how much of it to forget, above 0 and at most 1.",
        metavar="SHARE",
        show_default="0.6",
        parser=real,
    ),
]
MaskOption = Annotated[
    list[str] | None,
    typer.Option(help="With --start: picture that is white where the start may change; as --start.", metavar="FILE"),
]
PasteBackOption = Annotated[
    bool, typer.Option("--paste-back", help="With --mask: put pixels outside of it back exactly as they were.")
]
FitOption = Annotated[
    str | None,
    typer.Option(help="With --start: crop or pad, where it has other proportions than the sampler's.", metavar="HOW"),
]
OutOption = Annotated[
    Path, typer.Option(help="Folder to save to; by default out.", metavar="FOLDER", show_default=False)
]
CheckpointOption = Annotated[
    int,
    typer.Option(
        help="Iterations from one save to the next: what a killed process loses at most.",
        metavar="N",
        show_default="10",
        parser=whole(1),
    ),
]
SaveEveryOption = Annotated[
    int | None,
    typer.Option(
        help="Write the current images to iterations/ in --out every N iterations.", metavar="N", parser=whole(1)
    ),
]
ReferencesOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of reference pictures, for every loss that is given no reference of its own.", metavar="FOLDER"
    ),
]
NoPresetOption = Annotated[
    bool,
    typer.Option("--no-preset", help="Leave the options of a solver that is only named as they are by default."),
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
FolderArgument = Annotated[
    Path, typer.Argument(help="Folder of a sweep, of a saved run, or of several.", metavar="FOLDER")
]
MetricOption = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME or NAME:key=value,...; repeat for several.",
        metavar="NAME",
        show_default="the protocol's, or what applies",
        autocompletion=completion.metrics,
    ),
]
ProtocolOption = Annotated[
    str | None, typer.Option(help="Name of a protocol, or a .yaml file: what is measured.", metavar="NAME")
]
BaselineOption = Annotated[
    str | None,
    typer.Option(help="Configuration that others are compared with.", metavar="TITLE", show_default="the first"),
]
AgainOption = Annotated[bool, typer.Option("--again", help="Measure again what has been measured.")]
CasesOption = Annotated[
    int,
    typer.Option(
        help="Cases whose pictures are shown, the worst first.", metavar="N", show_default="24", parser=whole(0)
    ),
]
ReportOption = Annotated[
    Path | None, typer.Option(help="Where to write.", metavar="FILE", show_default="FOLDER/report.html")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Write over another run that is saved in --out.")]
OpenOption = Annotated[bool, typer.Option("--open", help="Show the comparison when it is done.")]
GifOption = Annotated[bool, typer.Option("--gif", help="Write the way there as guided.gif.")]
Mp4Option = Annotated[bool, typer.Option("--mp4", help="Write the way there as guided.mp4; needs imageio.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

PortOption = Annotated[
    int | None,
    typer.Option(help="Port of 127.0.0.1.", metavar="N", show_default="7860 or a free one", parser=whole(1024, 65535)),
]
BrowserOption = Annotated[
    bool, typer.Option("--open/--no-open", help="Open the page in the browser.", show_default="yes")
]
SpecArgument = Annotated[
    Path | None, typer.Argument(help="YAML or JSON, see --example.", metavar="SPEC", show_default=False)
]
RayOption = Annotated[
    str | None, typer.Option("--ray", help="Run on Ray: on this machine, or at an address.", metavar="[ADDRESS]")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only count jobs, and estimate time and memory.")]
ExampleOption = Annotated[bool, typer.Option("--example", help="Print a spec to begin with.")]
