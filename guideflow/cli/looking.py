"""The commands that make no picture: they look up, judge what was made, or write what a plugin begins with."""

from pathlib import Path
from typing import Annotated

import typer

from guideflow.cli import completion, options
from guideflow.cli.base import app


@app.command("evaluate")
def evaluate_command(
    folder: options.FolderArgument,
    metric: options.MetricOption = None,
    protocol: options.ProtocolOption = None,
    baseline: options.BaselineOption = None,
    again: options.AgainOption = False,
    json: options.JsonOption = False,
) -> None:
    """Measure pictures by judges that did not guide them.

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
    """Write what was measured as report.html and report.md.

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
    """Look at this installation and try it; say what to type.

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
        str,
        typer.Option(
            help="loss, sampler, solver or metric.",
            metavar="KIND",
            show_default="loss",
            autocompletion=completion.written,
        ),
    ] = "loss",
    out: Annotated[
        Path | None, typer.Option(help="Folder to make.", metavar="FOLDER", show_default="guideflow-NAME")
    ] = None,
) -> None:
    """Write a package with a plugin that works and is tested.

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
    """Print what lets a shell complete commands and names.

    \b
    Examples:
      eval "$(guideflow completion bash)"    # in ~/.bashrc
      eval "$(guideflow completion zsh)"     # in ~/.zshrc
      guideflow completion fish > ~/.config/fish/completions/guideflow.fish
    """
    typer.echo(completion.script(shell))


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="Picture of any format.", metavar="FILE")]) -> int:
    """Show what a picture tells of its origin.

    Its metadata, the watermark and content credentials.

    \b
    Example:
      guideflow inspect out/guided-00.png
    """
    from guideflow.cli.trust import inspect as body

    return body(file)
