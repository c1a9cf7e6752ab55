"""Check that the files under version control obey the project's limits.

Binaries are safetensors, png and gif only, each under 16 MB, a picture at most 400 kB, together under 45 MB, and all
files together under 58 MB: a clone stays quick, and nothing runs code when it is loaded.
"""

import subprocess
import sys
from pathlib import Path

MB = 2**20
PICTURES = {".png", ".gif"}
ALLOWED = {".safetensors", *PICTURES}
EACH = 16 * MB
PICTURE = 400_000
TOGETHER = 45 * MB
CHECKOUT = 58 * MB


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
    sizes = {path: path.stat().st_size for path in paths}
    binaries = {path: size for path, size in sizes.items() if path.suffix in ALLOWED or is_binary(path)}
    found = [
        f"{path}: a binary that is neither safetensors nor a picture" for path in binaries if path.suffix not in ALLOWED
    ]
    for path, size in binaries.items():
        if size >= EACH:
            found.append(f"{path}: {size / MB:.1f} MB, the limit is {EACH // MB} MB")
        if path.suffix in PICTURES and size > PICTURE:
            found.append(f"{path}: {size / 1000:.0f} kB, the limit for a picture is {PICTURE // 1000} kB")
    totals = {"all binaries": (sum(binaries.values()), TOGETHER), "all files": (sum(sizes.values()), CHECKOUT)}
    for what, (total, limit) in totals.items():
        if total >= limit:
            found.append(f"{what} together: {total / MB:.1f} MB, the limit is {limit // MB} MB")
    print(", ".join(f"{what}: {total / MB:.1f} of {limit // MB} MB" for what, (total, limit) in totals.items()))
    return found


if __name__ == "__main__":
    sys.exit("\n".join(problems(tracked())) or None)
