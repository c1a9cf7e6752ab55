"""The command `guideflow`, also as `python -m guideflow`."""

import io
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Arguments:
        arguments: What follows `guideflow`; by default that of the process.

    Returns:
        The exit code: 0, 2 for what the user can mend, 1 for a solve that failed, 130 after Ctrl-C.
    """
    if arguments is None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # what this terminal cannot show is no reason to fail
                stream.reconfigure(errors="backslashreplace")
    from guideflow.cli.process import run

    return run(sys.argv[1:] if arguments is None else arguments, ending=arguments is None)


if __name__ == "__main__":
    sys.exit(main())
