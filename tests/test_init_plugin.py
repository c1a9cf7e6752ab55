"""What `guideflow init-plugin` writes is a package that works: found by its name, and its own tests pass."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from guideflow import registry
from guideflow.__main__ import main
from guideflow.testing import fake_distribution


@pytest.mark.slow
def test_every_kind_is_found_and_passes_its_own_tests(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    site = tmp_path / "site"
    site.mkdir()
    for kind in registry.HOOKS:
        assert main(["init-plugin", f"my-{kind}", "--kind", kind]) == 0
        folder, module = tmp_path / f"guideflow-my-{kind}", f"guideflow_my_{kind}"
        assert f"pip install -e guideflow-my-{kind}" in capsys.readouterr().out
        point = re.search(r"\[project.entry-points.guideflow\]\n(.*)", (folder / "pyproject.toml").read_text())
        assert point is not None
        fake_distribution(site, point[1].replace('"', ""), (folder / f"{module}.py").read_text())
        (site / f"test_{module}.py").write_text((folder / f"test_{module}.py").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "."],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=site,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 35  # type: ignore[index]


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        (["Bad_name"], "Expected small letters, digits and hyphens"),
        (["-x", "--kind", "loss"], "No such option"),
        (["anchored", "--kind", "solver"], "There is a solver 'anchored' of guideflow. Give another name."),
        (["mine", "--kind", "writer"], "Got kind='writer'. Expected one of: 'loss', 'sampler', 'solver'"),
        (["there"], "guideflow-there is there already"),
        (["mine", "--out", "file"], "file is there already"),
    ],
)
def test_bad_names_and_folders_are_refused(
    typed: list[str], why: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guideflow-there").mkdir()
    (tmp_path / "guideflow-there" / "mine.txt").write_text("")
    (tmp_path / "file").write_text("")
    before = set(tmp_path.rglob("*"))
    assert main(["init-plugin", *typed]) == 2
    assert why in capsys.readouterr().err and set(tmp_path.rglob("*")) == before
