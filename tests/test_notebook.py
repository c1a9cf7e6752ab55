"""The notebook runs in a kernel of its own from top to bottom, and shows pictures, a film and bars that are done."""

import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from guideflow import _notebook

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "quickstart.ipynb"
SAVED = nbformat.read(NOTEBOOK, as_version=4)
INSTALL = next(cell.source for cell in SAVED.cells if cell.cell_type == "code")


def execute(notebook: Any, folder: Path) -> list[Any]:
    """Run a notebook as Jupyter does; return the outputs of each code cell."""
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def html(outputs: list[Any]) -> list[str]:
    """What a cell shows, bar and value."""
    return [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]


def pictures(text: str, kind: str) -> list[Image.Image]:
    found = re.findall(rf'src="data:image/{kind};base64,([^"]+)"', text)
    return [Image.open(io.BytesIO(base64.b64decode(content))) for content in found]


def test_it_is_kept_without_outputs_and_for_any_python_3() -> None:
    assert all(not cell.outputs and cell.execution_count is None for cell in SAVED.cells if cell.cell_type == "code")
    assert SAVED.metadata.kernelspec.name == "python3" and NOTEBOOK.stat().st_size < 20_000
    nbformat.validate(SAVED)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_it_runs_and_shows_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cells = execute(nbformat.read(NOTEBOOK, as_version=4), tmp_path)
    said = [output for outputs in cells for output in outputs if output.output_type == "stream"]
    assert {output.name for output in said} == {"stdout"}, said  # no warning
    install, person, way, own, several, terms = cells
    assert install == []
    for outputs, iterations, pictured in ((person, 6, (1008, 2)), (own, 6, (676, 2)), (several, 12, (1008, 1))):
        bar, shown = html(outputs)
        assert f'<progress value="{iterations}" max="{iterations}"' in bar
        assert re.search(rf"guiding {iterations}/{iterations}, loss -?\d\S*, best -?\d\S*, \d+:\d\d<", bar), bar
        (sheet,) = pictures(shown, "png")
        width, rows = pictured
        assert sheet.width == width and rows * 320 < sheet.height < rows * 360 + 60
        assert len(set(sheet.convert("L").crop((12, 50, 332, 370)).get_flattened_data())) > 50
    (film,) = pictures(html(way)[0], "gif")
    assert film.n_frames == 12
    terms = [[float(value) for value in re.findall(r"-?\d+\.\d+", line)] for line in terms[0].text.splitlines()]
    assert terms[0][1] < 0.1 < terms[0][0] and terms[0][1] + 0.5 * terms[1][1] < terms[0][0] + 0.5 * terms[1][0]
    assert [path.name for path in tmp_path.iterdir()] == []


def first_cell(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the first cell where no package is installed: `-S` leaves them out."""
    command = [sys.executable, "-S", "-c", INSTALL]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_without_a_clone_it_says_what_to_type(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pyproject.toml").write_text('[project]\nname = "other"\n')
    done = first_cell(tmp_path)
    assert done.returncode == 1
    assert (
        "guideflow is not installed, and no clone of its repository is here. Type `!git clone ADDRESS`" in done.stderr
    )


@pytest.mark.slow
@pytest.mark.parametrize("place", ["notebooks", ".."], ids=["in the clone", "beside the clone"])
def test_from_a_clone_it_is_installed(place: str, tmp_path: Path) -> None:
    clone, site = tmp_path / "guideflow", tmp_path / "site"
    (clone / "notebooks").mkdir(parents=True)
    (clone / "guideflow.py").write_text('__version__ = "0"\n')
    (clone / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "guideflow"\nversion = "0"\n[project.optional-dependencies]\ndiffusers = []\nplot = []\n'
        '[tool.hatch.build.targets.wheel]\nonly-include = ["guideflow.py"]\n'
    )
    options = {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_TARGET": str(site)}
    done = first_cell(clone / place, PIP_DISABLE_PIP_VERSION_CHECK="1", **options)
    assert done.returncode == 0, done.stderr
    assert (site / "guideflow.py").is_file()


def test_a_terminal_is_no_notebook() -> None:
    assert not _notebook.in_notebook()
