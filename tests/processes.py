"""Processes that are made to be killed."""

import os
import sys
from collections.abc import Callable
from typing import Any


def forked(call: Callable[[], Any]) -> int:
    """Run in a process of its own, which has imported everything already; return its id."""
    sys.stdout.flush()
    if process := os.fork():
        return process
    code = 70
    try:
        code = int(call() or 0)
    finally:
        os._exit(code)


def ended(process: int) -> int:
    """Wait for a process, and return its exit code; of one that was killed, the signal below zero."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
