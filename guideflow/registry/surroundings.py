"""What a plugin may change of the process while it is imported, and is put back: its other users have no part in it."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Aside:
    """Standard output for all but the thread that a plugin is asked in: what that prints goes to standard error."""

    def __init__(self, out: Any, thread: threading.Thread) -> None:
        self._out, self._thread = out, thread

    def write(self, text: str) -> int:
        to = sys.stderr if threading.current_thread() is self._thread else self._out
        return len(text) if to is None else to.write(text)

    def close(self) -> None:
        """Stay open: it is not the plugin's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)


@contextmanager
def put_back(thread: threading.Thread) -> Iterator[None]:
    """Put back what a thread changes of the process: folder, streams, where modules are found, numbers and threads.

    Results would go to another folder, or depend on which plugins are installed. What is added to `sys.path` stays, as
    a plugin may find its own modules there.
    """
    folder, path, arguments = _folder(), [*sys.path], [*sys.argv]
    streams, numbers, of_torch = (sys.stdout, sys.stderr), random.getstate(), _of_torch()
    if sys.stdout is not None:
        sys.stdout = _Aside(sys.stdout, thread)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        if folder is not None and folder != _folder():
            os.chdir(folder)
        if not {*path} <= {*sys.path}:
            sys.path[:] = [*path, *(one for one in sys.path if one not in path)]
        sys.argv[:] = arguments
        random.setstate(numbers)
        _put_back_of_torch(*of_torch)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _of_torch() -> tuple[Any, Any, Any]:
    """Return random numbers, default dtype and number of threads; None for what nobody has been able to change yet."""
    torch = sys.modules.get("torch")
    if not hasattr(torch, "set_num_threads"):  # another thread may be importing it
        return None, None, None
    return torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()  # type: ignore[union-attr]


def _put_back_of_torch(numbers: Any, dtype: Any, threads: Any) -> None:
    torch: Any = sys.modules.get("torch")
    if not hasattr(torch, "set_num_threads"):
        return
    torch.set_default_dtype(dtype or torch.float32)
    if numbers is not None:
        torch.set_rng_state(numbers)
    if threads is not None:
        torch.set_num_threads(threads)  # also for threads to come, which a plugin's own thread has counted anew
