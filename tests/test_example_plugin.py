"""The example of a third-party plugin, installed by pip as anybody would."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "guideflow-sharpness"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Environment in which the example is installed; its source is not on the path."""
    target = tmp_path_factory.mktemp("site")
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "plugin")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # Without isolation pip needs no network: hatchling is among the dependencies of the tests.
    command += ["--no-build-isolation", "--no-index", "--target", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return {**os.environ, "PYTHONPATH": str(target), "COLUMNS": "120"}


def run(arguments, environment, folder):
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


COMMANDS = """
from guideflow.__main__ import main
run = "run --sampler toy-mixture --loss 0.5*sharpness:half=1 --iterations 3 --out out"
for command in ("list losses", "info sharpness", run):
    assert main(command.split()) == 0, command
"""


def test_it_is_listed_described_and_run_from_the_command_line(installed, tmp_path):
    said = run(["-c", COMMANDS], installed, tmp_path)
    assert "Crisp edges, whatever the contrast" in said
    assert "a loss of guideflow-sharpness 0.1" in said and "half" in said and "float = 1.0" in said

    assert "Saved" in said and (tmp_path / "out" / "guided-00.png").is_file()


@pytest.mark.slow
def test_its_own_tests_pass_and_with_them_the_conformance_checks(installed, tmp_path):
    shutil.copy(EXAMPLE / "test_sharpness.py", tmp_path)
    said = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_sharpness.py"], installed, tmp_path)
    assert "14 passed" in said
