"""The limits of what is under version control."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "check_binaries.py"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_binaries", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sparse(path, size):
    """A file of zeros that takes no space."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_what_obeys_the_limits_passes(check, tmp_path):
    (tmp_path / "text.md").write_text("ümlaut")
    files = [tmp_path / "text.md", sparse(tmp_path / "a.png", 400_000)]
    files += [sparse(tmp_path / f"{i}.safetensors", 14 * check.MB) for i in range(3)]
    assert check.problems(files) == []


@pytest.mark.parametrize(
    ("name", "size", "copies", "what"),
    [
        ("weights.pt", 8, 1, "neither safetensors nor a picture"),
        ("large.safetensors", 16 * 2**20, 1, "the limit is 16 MB"),
        ("large.png", 400_001, 1, "the limit for a picture is 400 kB"),
        ("large.gif", 400_001, 1, "the limit for a picture is 400 kB"),
        ("part.safetensors", 15 * 2**20, 3, "all binaries together: 45.0 MB, the limit is 45 MB"),
    ],
)
def test_every_limit_is_told(check, tmp_path, name, size, copies, what):
    found = check.problems([sparse(tmp_path / f"{i}{name}", size) for i in range(copies)])
    assert len(found) == 1 and what in found[0]


def test_text_counts_in_the_checkout(check, tmp_path):
    text = tmp_path / "long.txt"
    text.write_bytes(b"a" * (58 * check.MB))
    (found,) = check.problems([text])
    assert found == "all files together: 58.0 MB, the limit is 58 MB"
