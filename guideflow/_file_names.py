"""How a loss in a Python file of the user's is written: `path/to/file.py:Name`."""

from __future__ import annotations

import re

FILE_NAME = re.compile(r"((?:[A-Za-z]:[\\/])?[^:=]+\.py)(?::([A-Za-z_]\w*))?")


def split_name(text: str) -> tuple[str, str]:
    """Split what was typed into a name and its options: `NAME:options` or `path/to/file.py:Name:options`."""
    found = re.fullmatch(f"({FILE_NAME.pattern})(?::(.*))?", text, re.DOTALL)
    if found:
        return found[1], found[4] or ""
    name, _, options = text.partition(":")
    return name.strip(), options


def is_file(name: str) -> bool:
    """Tell whether a name means something in a file, rather than an installed plugin."""
    return FILE_NAME.fullmatch(name) is not None
