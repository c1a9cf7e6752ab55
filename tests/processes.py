"""Processes that are made to be killed."""

import os
import random
import signal
import sys
import time
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


def killed(call: Callable[[], Any], times: int, seconds: float, done: Callable[[], Any]) -> None:
    """Kill what is called again and again, so many times in all, within half the seconds that the whole takes.

    Whenever it ends before that, `done` looks at what it made and takes it away, and the next call begins anew: how
    often it is killed in the midst of its work does not depend on how fast the machine is.
    """
    moments = random.Random(0)
    while times:
        process = forked(call)
        time.sleep(moments.uniform(0, seconds / 2))
        os.kill(process, signal.SIGKILL)
        code = ended(process)
        assert code in (0, -signal.SIGKILL)
        if code == 0:
            done()
        else:
            times -= 1
