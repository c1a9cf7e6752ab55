"""A command from what was typed to its exit code, and what is said where it goes wrong."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

import typer

from guideflow.cli import completion
from guideflow.cli.codes import BROKEN_PIPE, FAILED, INTERRUPTED, MISTAKEN, Failed
from guideflow.cli.console import for_programs
from guideflow.cli.ends import TRACEBACK, complain, plain_warnings, told, wants_traceback
from guideflow.cli.main import app
from guideflow.errors import GuideflowError, InvalidArgument
from guideflow.stopping import stoppable


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
        if "--out=" in arguments or ("--out", "") in pairwise(arguments):  # of a variable that is not set, say
            raise InvalidArgument("Got an empty name for --out. Type the name of a folder, or leave --out away.")
        if any(text == "" and not before.startswith("-") for before, text in pairwise(arguments)):
            raise InvalidArgument("Got an empty name. Type that of a file or a folder; '.' is the one you are in.")
        with for_programs("--json" in arguments and "--help" not in arguments):
            code = app(args=arguments or ["--help"], prog_name="guideflow", standalone_mode=False)
        if sys.stdout is not None:  # a process may be started without
            sys.stdout.flush()  # here, where a reader that has gone can be told from an error
        return code if isinstance(code, int) else 0
    except Failed as error:
        return complain(error, str(error), error.code, shown)
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):  # rich's, of a help
            raise
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
            return complain(error, f"{message().rstrip('.')}.{_help(error)}", MISTAKEN, shown)
        why = f"This should not happen: {told(error)}."
        return complain(error, f"{why} Type the command again with {TRACEBACK} for a report.", FAILED, shown)


def _help(error: Exception) -> str:
    """Say where it stands what can be typed, after a usage error that does not say it itself."""
    from_value = type(error).__name__ == "BadParameter"
    where = getattr(getattr(error, "ctx", None), "command_path", "guideflow")
    return "" if from_value else f" Type {where} --help."
