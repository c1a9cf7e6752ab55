"""The commands and what every one of them does about errors."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from guideflow.cli import options
from guideflow.cli.codes import INTERRUPTED, Failed
from guideflow.cli.console import visible
from guideflow.errors import GuideflowError, InvalidArgument
from guideflow.stopping import stoppable

app = typer.Typer(name="guideflow", add_completion=False, pretty_exceptions_enable=False)


def run(arguments: Sequence[str], ending: bool = False) -> int:
    """Run a command; return its exit code.

    0; 130 after Ctrl-C, and so for other signals that stop it; 2 for what the user can mend and 1 for a solve that
    failed, told in a line on standard error. The process is `ending` if it ends with the command.
    """
    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    with stoppable(*signals, ending=ending) as stop:
        code = _run(arguments)
        return stop.code if code == INTERRUPTED else code


def _run(arguments: Sequence[str]) -> int:
    try:
        code = app(args=list(arguments) or ["--help"], prog_name="guideflow", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except Failed as error:
        return _complain(str(error), error.code)
    except GuideflowError as error:
        return _complain(str(error), 2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _complain("Interrupted.", INTERRUPTED)
    except Exception as error:
        # Usage errors come from typer's own copy of click or from the installed one: known by what they can do.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        return _complain(message(), 2)


def _complain(text: str, code: int) -> int:
    print(f"guideflow: {visible(' '.join(text.split()))}", file=sys.stderr)
    return code


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("out")) -> None:
    """Guide four seeds to a bundled portrait and draw the result."""
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
    gradient_mode: options.GradientModeOption = None,
    out: options.OutOption = Path("out"),
    checkpoint_every: options.CheckpointOption = 10,
    resume: options.ResumeOption = False,
    trust: options.TrustOption = False,
) -> int:
    """Guide a sampler with losses, and save images, history and everything needed to go on.

    For example: guideflow run --sampler avatars-perflow --loss avatars-identity:reference=me.png
    --prompt "a smiling person" --seed 0 --seed 1 --out me
    """
    from guideflow.cli.run import resume_saved, solve_new

    settings = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "candidates": candidates,
        "gradient_mode": gradient_mode,
    }
    if trust and not resume:
        raise InvalidArgument("Got --trust without --resume, the only thing it is for. Leave it out.")
    if not resume:
        settings |= {"max_iterations": iterations, "checkpoint_every": checkpoint_every}
        return solve_new(sampler, loss or [], solver, out, **settings)
    new = {"sampler": sampler, "loss": loss, "solver": solver, **settings}
    given = [f"--{name.replace('_', '-')}" for name, value in new.items() if value]
    return resume_saved(out, iterations, given, loss or [], trust, checkpoint_every)


@app.command("list")
def list_command(
    kind: Annotated[str, typer.Argument(help="samplers, losses or solvers; all three by default.")] = "",
) -> None:
    """Show what can be loaded by name."""
    from guideflow.cli.listing import show_list

    show_list(kind)


@app.command()
def info(name: Annotated[str, typer.Argument(help="As `guideflow list` shows it.")]) -> None:
    """Show what a name stands for, what it needs and its options."""
    from guideflow.cli.listing import show_info

    show_info(name)


@app.command("app")
def app_command(port: options.PortOption = None, open_browser: options.OpenOption = True) -> None:
    """Pick, drop, draw and run on a page in the browser of this machine.

    For example: guideflow app
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
) -> None:
    """Steer a frozen few-step image sampler with the gradient of any loss on its final image."""
