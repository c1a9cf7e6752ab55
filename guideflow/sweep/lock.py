"""One process at a time writes to a folder; the system lets go of it when that one ends, however it does."""

import os
from pathlib import Path

from guideflow.errors import FolderInUse


class Lock:
    """A lock on a folder, held until `release`.

    Raises:
        FolderInUse: if another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            import fcntl
        except ImportError:  # Windows: two sweeps into one folder are the user's own care
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            if not isinstance(error, BlockingIOError):  # a file system that knows no locks
                raise
            raise FolderInUse(
                f"Another sweep is at work in {folder}. Wait for it or stop it, or give --out another folder."
            ) from error

    def release(self) -> None:
        """Let another process have the folder."""
        os.close(self._file)
