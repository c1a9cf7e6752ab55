"""What users pass and what folders hold, as it arrives where no run-time type checker stands before it."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("name", ["arguments", "constructors", "damage", "hostile", "plugins"])
def test_it_is_taken_or_refused_without_the_type_checker(name: str) -> None:
    options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-o", "addopts="]
    command = [sys.executable, "-m", "pytest", *options, str(HERE / f"untyped_{name}.py")]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
