"""Being asked to stop: once is enough, and however often it is asked, what was solved is kept."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_AGAIN: Final = 10.0
"""Seconds from which on another Ctrl-C counts: whoever still waits then means more than an impatient finger does."""
_DEFAULTS: Final = (signal.default_int_handler, signal.SIG_DFL)


class Stop:
    """What asked to stop last: the number of a signal, or 0."""

    number = 0

    @property
    def code(self) -> int:
        """Exit code of a process that a signal stopped."""
        return 128 + (self.number or signal.SIGINT)


@contextmanager
def stoppable(*signals: signal.Signals, ending: bool = False) -> Iterator[Stop]:
    """Raise `KeyboardInterrupt` once for all that signals say within ten seconds, in the main thread.

    A signal that is ignored, as under nohup, stays so; one that the program handles itself is left to it. If the
    process is `ending` after that, signals that say it again change nothing about its exit code.
    """
    stop, last = Stop(), -_AGAIN

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _AGAIN:
            last, stop.number = now, number
            raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in signals} if main else {}
    before = {number: handler for number, handler in before.items() if handler in _DEFAULTS}
    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if ending and stop.number else handler)
