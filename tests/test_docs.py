"""Every Python block of README and documentation runs, and every picture is written by it.

With GUIDEFLOW_PICTURES=1 the pictures are copied to docs/images (`make pictures`).
"""

import html
import os
import re
import shutil
import sys
import types
from pathlib import Path

import pytest

import tiny

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SITE = sorted(page for page in DOCS.rglob("*.md") if DOCS / "examples" not in page.parents)
PAGES = [ROOT / "README.md", *SITE]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
TINY = re.compile(r"^tiny (\w+): (\S+)$", re.MULTILINE)
PICTURE = re.compile(r"!\[[^\]]*\]\((?!http)([^)]+\.(?:png|gif))\)")


def page_id(path):
    return str(path.relative_to(ROOT))


def code(path):
    return "".join(BLOCK.findall(path.read_text()))


def drawn_elsewhere(name, path):
    """Whether another page's code writes a picture that this page shows too."""
    return name not in code(path) and any(name in code(page) for page in PAGES if page != path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, marks=() if p.name == "README.md" else pytest.mark.slow, id=page_id(p))
        for p in PAGES
        if BLOCK.search(p.read_text())
    ],
)
def test_the_code_of_a_page_runs_and_writes_its_pictures(path, tmp_path, monkeypatch):
    text = path.read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    if "me.png" in text and 'save("me.png")' not in text:
        import guideflow_avatars

        shutil.copy(guideflow_avatars.portrait("cleo"), "me.png")
    if wanted := TINY.findall(text):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        for kind, name in wanted:
            tiny.stand_in(kind, name, tmp_path / "hub")
    # Dataclasses look their module up, so the page has to be one.
    page = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)
    for block in BLOCK.finditer(text):
        line = text[: block.start()].count("\n") + 1
        exec(compile("\n" * line + block[1], str(path), "exec"), page.__dict__)
    for name in PICTURE.findall(text):
        if path.name == "README.md":
            continue  # shows pictures of the pages and of the demo
        if drawn_elsewhere(Path(name).name, path):
            continue
        written = tmp_path / Path(name).name
        assert written.is_file(), f"{path.name} shows {name}, and no code on it writes {written.name}"
        if os.environ.get("GUIDEFLOW_PICTURES"):
            shutil.copy(written, DOCS / "images" / written.name)


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_pictures_exist(path):
    for name in PICTURE.findall(path.read_text()):
        assert (path.parent / name).is_file(), f"{name} is missing; draw it with `make pictures`"


def test_no_picture_is_left_over():
    shown = {Path(name).name for page in PAGES for name in PICTURE.findall(page.read_text())}
    assert {path.name for path in (DOCS / "images").iterdir()} <= shown


FORMULA = re.compile(r"(?<![`\\$\w])(\$\$?)(?=\S)([^`$\n]+?)(?<=\S)\1(?![$\w])")


@pytest.mark.parametrize("path", [path for path in SITE if FORMULA.search(path.read_text())], ids=page_id)
def test_formulas_are_turned_into_what_browsers_show_by_themselves(path):
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from mathml import on_page_content
    finally:
        sys.path.remove(str(ROOT / "tools"))
    for _, formula in FORMULA.findall(path.read_text()):
        shown = on_page_content(f'<p><span class="arithmatex">\\({html.escape(formula)}\\)</span></p>')
        assert shown.startswith('<p><math xmlns="http://www.w3.org/1998/Math/MathML" display="inline">'), formula
        assert "\\" not in shown and "arithmatex" not in shown, formula


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in SITE:
        assert f": {page.relative_to(DOCS).as_posix()}\n" in navigation
