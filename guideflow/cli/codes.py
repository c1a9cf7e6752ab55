"""How commands end that do not end well."""

from typing import Final

FAILED: Final = 1
MISTAKEN: Final = 2
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141


class Failed(Exception):
    """A solve ended early or in vain; the message says what has become of it. `code` is that of the process."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code
