"""The commands and what every one of them does about errors."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from guideflow._require import one_of
from guideflow.cli import completion, options
from guideflow.cli.codes import BROKEN_PIPE, FAILED, INTERRUPTED, MISTAKEN, Failed
from guideflow.cli.ends import TRACEBACK, complain, plain_warnings, told, wants_traceback
from guideflow.cli.sweep import SweepCommand
from guideflow.errors import GuideflowError, InvalidArgument
from guideflow.stopping import stoppable

app = typer.Typer(name="guideflow", add_completion=False, pretty_exceptions_enable=False)


def run(arguments: Sequence[str], ending: bool = False) -> int:
    """Run a command; return its exit code.

    0; 130 after Ctrl-C, and so for other signals that stop it; 2 for what the user can mend and 1 for a solve that
    failed, told in a line on standard error. The process is `ending` if it ends with the command.
    """
    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    with stoppable(*signals, ending=ending) as stop, plain_warnings():
        code = _run(*wants_traceback(arguments))
        return stop.code if code == INTERRUPTED else code


def _run(arguments: list[str], shown: bool) -> int:
    if "_GUIDEFLOW_COMPLETE" in os.environ:
        completion.listen()
    try:
        code = app(args=arguments or ["--help"], prog_name="guideflow", standalone_mode=False)
        sys.stdout.flush()  # here, where a reader that has gone can be told from an error
        return code if isinstance(code, int) else 0
    except Failed as error:
        return complain(error, str(error), error.code, shown)
    except BrokenPipeError:
        with suppress(OSError):  # whatever is left to print has no reader; and no descriptor, if the stream has none
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (GuideflowError, OSError) as error:
        return complain(error, told(error), MISTAKEN, shown)
    except (KeyboardInterrupt, typer.Abort) as error:
        return complain(error, "Interrupted.", INTERRUPTED, False)
    except Exception as error:
        # Usage errors come from typer's own copy of click or from the installed one: known by what they can do.
        message = getattr(error, "format_message", None)
        if message is not None:
            return complain(error, message(), MISTAKEN, shown)
        why = f"This should not happen: {told(error)}."
        return complain(error, f"{why} Type the command again with {TRACEBACK} for a report.", FAILED, shown)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.", metavar="FOLDER")] = Path("out"),
) -> None:
    """Guide four seeds to three bundled portraits and draw the result.

    \b
    Example:
      guideflow demo --out out
    """
    from guideflow.cli.demo import demo as body

    body(out)


@app.command("run")
def run_command(
    sampler: options.SamplerOption = None,
    loss: options.LossOption = None,
    solver: options.SolverOption = None,
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
    """Guide a sampler with losses; save pictures, curves and everything needed to go on.

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
        typed = ", ".join(f"--{name.replace('_', '-')}" for name in names)
        raise InvalidArgument(f"--resume takes {typed} from the saved run. Leave them out.")
    return resume_saved(asked, iterations, sampler, loss or [], solver, trust)


@app.command("evaluate")
def evaluate_command(
    folder: options.FolderArgument,
    metric: options.MetricOption = None,
    protocol: options.ProtocolOption = None,
    baseline: options.BaselineOption = None,
    again: options.AgainOption = False,
    json: options.JsonOption = False,
) -> None:
    """Measure the pictures of a folder by judges that did not guide them.

    \b
    Examples:
      guideflow evaluate out --metric denoise-error
      guideflow evaluate people --protocol avatars --json
    """
    from guideflow.cli.evaluate import evaluate_folder

    evaluate_folder(folder, metric, protocol, baseline, again, json)


@app.command("report")
def report_command(
    folder: options.FolderArgument,
    baseline: options.BaselineOption = None,
    cases: options.CasesOption = 24,
    out: options.ReportOption = None,
) -> None:
    """Write what was measured as a page of its own, report.html, and as report.md.

    \b
    Examples:
      guideflow report out
      guideflow report out --baseline "anchored, scale=1"
    """
    from guideflow.cli.evaluate import report_folder

    report_folder(folder, baseline, cases, out)


@app.command("list")
def list_command(
    kind: Annotated[
        str,
        typer.Argument(
            help="samplers, losses, solvers or metrics; all by default.",
            metavar="KIND",
            autocompletion=completion.kinds,
        ),
    ] = "",
    json: options.JsonOption = False,
) -> None:
    """Show what can be loaded by name.

    \b
    Examples:
      guideflow list
      guideflow list losses --json
    """
    from guideflow.cli.listing import show_list

    show_list(kind, json)


@app.command()
def info(
    name: Annotated[
        str, typer.Argument(help="As `guideflow list` shows it.", metavar="NAME", autocompletion=completion.names)
    ],
    json: options.JsonOption = False,
) -> None:
    """Show what a name stands for, what it needs and its options.

    \b
    Examples:
      guideflow info avatars-perflow
      guideflow info identity --json
    """
    from guideflow.cli.info import show_info

    show_info(name, json)


@app.command()
def doctor(json: options.JsonOption = False) -> int:
    """Look at this installation, and try it: what is missing, and what to type about it.

    \b
    Example:
      guideflow doctor
    """
    from guideflow.cli.doctor import doctor as body

    return body(json)


@app.command("init-plugin")
def init_plugin(
    name: Annotated[str, typer.Argument(help="What users will type, as in sharp-edges.", metavar="NAME")],
    kind: Annotated[
        str, typer.Option(help="loss, sampler, solver or metric.", metavar="KIND", autocompletion=completion.written)
    ] = "loss",
    out: Annotated[
        Path | None, typer.Option(help="Folder to make; guideflow-NAME by default.", metavar="FOLDER")
    ] = None,
) -> None:
    """Write a package with a plugin of your own: it works, is tested, and pip installs it.

    \b
    Examples:
      guideflow init-plugin sharp-edges
      guideflow init-plugin my-rule --kind solver
    """
    from guideflow.cli.init_plugin import init_plugin as body

    body(name, kind, out)


@app.command("completion")
def completion_command(
    shell: Annotated[str, typer.Argument(help="bash, zsh, fish, powershell or pwsh.", metavar="SHELL")],
) -> None:
    """Print the script that lets a shell complete commands, options and names.

    \b
    Examples:
      eval "$(guideflow completion bash)"    # in ~/.bashrc
      eval "$(guideflow completion zsh)"     # in ~/.zshrc
      guideflow completion fish > ~/.config/fish/completions/guideflow.fish
    """
    typer.echo(completion.script(shell))


@app.command("sweep", cls=SweepCommand)
def sweep_command(
    spec: Annotated[Path | None, typer.Argument(help="YAML or JSON, see --example.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the sweep.", show_default="the spec's name")] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", help="Run on Ray: on this machine, or at an address.", metavar="[ADDRESS]")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed jobs again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count jobs, and estimate time and memory.")] = False,
    example: Annotated[bool, typer.Option("--example", help="Print a spec to begin with.")] = False,
) -> int:
    """Run every combination of samplers, losses, solvers, references, prompts and seeds; resumable.

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


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of a saved run.")],
    loss: options.LossOption = None,
    trust: Annotated[bool, typer.Option("--trust", help="Read files outside the folder that the run names.")] = False,
    tolerance: Annotated[float, typer.Option(help="Grey levels, of 255, by which images may differ.", min=0)] = 0.0,
) -> int:
    """Make a saved run again from its manifest, and compare the pictures; 1 is the exit code where they differ.

    \b
    Examples:
      guideflow verify out
      guideflow verify out --tolerance 1
    """
    from guideflow.cli.trust import verify as body

    return body(folder, loss or [], trust, tolerance)


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="Picture of any format.")]) -> int:
    """Show what a picture tells of its origin: metadata, watermark and content credentials.

    \b
    Example:
      guideflow inspect out/guided-00.png
    """
    from guideflow.cli.trust import inspect as body

    return body(file)


@app.command("app")
def app_command(port: options.PortOption = None, open_browser: options.BrowserOption = True) -> None:
    """Pick, drop, draw and run on a page in the browser of this machine.

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
