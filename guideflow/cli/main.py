"""The commands that make pictures, and what all commands have in common."""

from pathlib import Path
from typing import Annotated

import typer

from guideflow._given import one_of
from guideflow.cli import looking as looking  # declares the commands of its own
from guideflow.cli import options
from guideflow.cli.base import app as app
from guideflow.cli.ends import TRACEBACK
from guideflow.cli.sweep import SweepCommand
from guideflow.errors import InvalidArgument


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.", metavar="FOLDER", show_default="out")] = Path("out"),
) -> None:
    """Guide four seeds to three bundled portraits; draw the result.

    \b
    Example:
      guideflow demo --out out
    """
    from guideflow.cli.demo import demo as body

    body(out)


@app.command("run", cls=options.RunCommand)
def run_command(
    sampler: options.SamplerOption = None,
    loss: options.LossOption = None,
    solver: options.SolverOption = None,
    no_preset: options.NoPresetOption = False,
    prompt: options.PromptOption = None,
    negative_prompt: options.NegativePromptOption = None,
    seed: options.SeedOption = None,
    iterations: options.IterationsOption = None,
    candidates: options.CandidatesOption = None,
    candidate_radius: options.RadiusOption = None,
    reference_dir: options.ReferencesOption = None,
    target_loss: options.TargetOption = None,
    patience: options.PatienceOption = None,
    time_limit: options.TimeOption = None,
    keep: options.KeepOption = None,
    gradient_mode: options.GradientModeOption = None,
    start: options.StartOption = None,
    strength: options.StrengthOption = None,
    mask: options.MaskOption = None,
    paste_back: options.PasteBackOption = False,
    fit: options.FitOption = None,
    out: options.OutOption = Path("out"),
    force: options.ForceOption = False,
    checkpoint_every: options.CheckpointOption = 10,
    watermark: options.WatermarkOption = None,
    save_every: options.SaveEveryOption = None,
    gif: options.GifOption = False,
    mp4: options.Mp4Option = False,
    open_: options.OpenOption = False,
    json: options.JsonOption = False,
    resume: options.ResumeOption = False,
    trust: options.TrustOption = False,
) -> int:
    """Guide a sampler with losses, and save all that came of it.

    \b
    Examples:
      guideflow run --sampler avatars-perflow \\
        --loss avatars-identity:reference=ada \\
        --prompt "a smiling person" --seed 0:4 --out ada
      guideflow run --sampler perflow --loss identity:reference=me.jpg \\
        --loss "0.5*style:reference=waves.jpg" --prompt "a photo of a person"
      guideflow run --resume --out ada --iterations 24
    A NAME may also be one in a file of your own: path/to/file.py:NAME.
    """
    from guideflow.cli.run import Asked, resume_saved, solve_new

    settings = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "seed": [one for several in seed for one in several] if seed else None,
        "candidates": candidates,
        "candidate_radius": candidate_radius,
        "target_loss": target_loss,
        "patience": patience,
        "keep": keep,
        "gradient_mode": gradient_mode,
        "start": start,
        "strength": strength,
        "mask": mask,
        "paste_back": paste_back or None,
        "fit": fit,
        "watermark": watermark,
        "preset": False if no_preset else None,
    }
    if keep is not None:
        one_of("keep", keep, ("best", "last"))
    if trust and not resume:
        raise InvalidArgument("Got --trust without --resume, the only thing it is for. Leave it out.")
    asked = Asked(out, checkpoint_every, time_limit, save_every, gif, mp4, open_, json)
    if not resume:
        settings["max_iterations"] = iterations
        return solve_new(sampler, loss or [], solver, reference_dir, asked, force, **settings)
    given = {name: value for name, value in settings.items() if value is not None}
    if force or given or reference_dir:
        names = [*given, *(["force"] if force else []), *(["reference_dir"] if reference_dir else [])]
        typed = ", ".join(f"--{name.replace('_', '-')}" for name in names).replace("--preset", "--no-preset")
        raise InvalidArgument(f"--resume takes {typed} from the saved run. Leave them out.")
    return resume_saved(asked, iterations, sampler, loss or [], solver, trust)


@app.command("sweep", cls=SweepCommand)
def sweep_command(
    spec: options.SpecArgument = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the sweep.", metavar="FOLDER", show_default="the spec's name")
    ] = None,
    ray: options.RayOption = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed jobs again.")] = False,
    dry_run: options.DryRunOption = False,
    example: options.ExampleOption = False,
) -> int:
    """Run every combination of what a spec names; resumable.

    \b
    Examples:
      guideflow sweep --example > sweep.yaml
      guideflow sweep sweep.yaml --dry-run
      guideflow sweep sweep.yaml --out people
    """
    from guideflow.cli import sweep as body

    if example:
        return body.example()
    spec = body.check(spec, ray, dry_run, retry_failed)
    return body.plan_only(spec, out) if dry_run else body.run(spec, out, ray, retry_failed)


@app.command("tune", cls=SweepCommand)
def tune_command(
    spec: options.SpecArgument = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the search.", metavar="FOLDER", show_default="the spec's name")
    ] = None,
    ray: options.RayOption = None,
    dry_run: options.DryRunOption = False,
    example: options.ExampleOption = False,
) -> int:
    """Search the options of a solver, and write a preset; resumable.

    \b
    Examples:
      guideflow tune --example > tune.yaml
      guideflow tune tune.yaml --dry-run
      guideflow tune tune.yaml --out anchored
    """
    from guideflow.cli import tune as body

    if example:
        return body.example()
    spec = body.check(spec, ray, dry_run)
    return body.plan_only(spec, out) if dry_run else body.run(spec, out, ray)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of a saved run.", metavar="FOLDER")],
    loss: options.LossOption = None,
    trust: Annotated[bool, typer.Option("--trust", help="Read files outside the folder that the run names.")] = False,
    tolerance: Annotated[
        float,
        typer.Option(
            help="Grey levels, of 255, by which images may differ.",
            metavar="LEVELS",
            show_default="0",
            parser=options.real,
        ),
    ] = 0.0,
) -> int:
    """Make a saved run again, and compare the pictures.

    The exit code is 1 where they differ.

    \b
    Examples:
      guideflow verify out
      guideflow verify out --tolerance 1
    """
    from guideflow.cli.trust import verify as body

    return body(folder, loss or [], trust, tolerance)


@app.command("app")
def app_command(port: options.PortOption = None, open_browser: options.BrowserOption = True) -> None:
    """Pick, drop, draw and run on a page in your browser.

    \b
    Examples:
      guideflow app
      guideflow app --port 8000 --no-open
    """
    from guideflow.app.server import serve

    serve(port, open_browser)


def _show_version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"guideflow {version('guideflow')}")
        raise typer.Exit
    return wanted


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
    traceback: Annotated[
        bool, typer.Option(TRACEBACK, help="Show where an error comes from; goes with every command.")
    ] = False,
) -> None:
    """Steer a frozen few-step image sampler with the gradient of any loss on its final image.

    \b
    Examples:
      guideflow demo                 # the bundled portraits, offline
      guideflow list                 # samplers, losses and solvers by name
      guideflow run --help           # examples of runs
    Exit codes: 0 done, 1 the solve failed, 2 something to mend in what was
    typed, 130 interrupted.
    """
