"""Check that the binary files under version control obey the project's limits.

Only safetensors and png, each under 20 MB, together under 80 MB:
a clone stays quick, and nothing runs code when it is loaded.
"""

import subprocess
import sys
from pathlib import Path

ALLOWED = {".safetensors", ".png"}
EACH = 20 * 2**20
TOGETHER = 80 * 2**20


def tracked() -> list[Path]:
    """Every file under version control, as a path from the top of the repository."""
    listing = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    return [Path(name) for name in listing.split("\0") if name and Path(name).is_file()]


def is_binary(path: Path) -> bool:
    """Whether the file holds anything but UTF-8 text."""
    data = path.read_bytes()
    try:
        data.decode()
    except UnicodeDecodeError:
        return True
    return b"\0" in data


def problems(paths: list[Path]) -> list[str]:
    """One line for every limit that is broken."""
    binaries = {path: path.stat().st_size for path in paths if path.suffix in ALLOWED or is_binary(path)}
    found = [f"{path}: a binary that is neither safetensors nor png" for path in binaries if path.suffix not in ALLOWED]
    found += [f"{path}: {size / 2**20:.1f} MB, the limit is 20 MB" for path, size in binaries.items() if size >= EACH]
    total = sum(binaries.values())
    if total >= TOGETHER:
        found.append(f"all binaries together: {total / 2**20:.1f} MB, the limit is 80 MB")
    print(f"{len(binaries)} binaries, {total / 2**20:.1f} MB")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(problems(tracked())) or None)
