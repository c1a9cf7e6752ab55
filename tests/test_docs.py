"""Every Python block of README and documentation runs, every picture is written by it, and the reference is complete.

With GUIDEFLOW_PICTURES=1 the pictures are copied to docs/images (`make pictures`).
"""

import html
import inspect
import os
import re
import shutil
import sys
import types
from pathlib import Path

import pytest

import guideflow as gf
import tiny
from guideflow import callbacks, errors, evaluation, images, metrics, registry, testing

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


DIRECTIVES = {
    name for page in (DOCS / "api").glob("*.md") for name in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE)
}


def documented(thing, name):
    """Whether a directive names the thing or all of its module."""
    module = getattr(thing, "__module__", "") or ""
    return module in DIRECTIVES or any(directive.endswith(f".{name}") for directive in DIRECTIVES)


def public(module):
    """Public names of a module with what they are, modules left out."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found = {name: getattr(module, name) for name in names}
    return {name: thing for name, thing in found.items() if not inspect.ismodule(thing)}


@pytest.mark.parametrize("name", sorted(public(gf)))
def test_every_public_name_is_in_the_reference(name):
    assert documented(getattr(gf, name), name)


@pytest.mark.parametrize(
    "module", [callbacks, errors, evaluation, images, metrics, registry, testing], ids=lambda module: module.__name__
)
def test_every_name_of_a_public_module_is_in_the_reference(module):
    for name, thing in public(module).items():
        if (getattr(thing, "__module__", None) or "").startswith(module.__name__):
            assert documented(thing, name), f"{module.__name__}.{name}"


@pytest.mark.parametrize("name", sorted(registry.HOOKS.values()))
def test_every_hook_is_a_heading(name):
    assert f"\n### `{name}()" in (DOCS / "api" / "plugins.md").read_text()


def test_every_command_is_documented():
    text = (DOCS / "api" / "cli.md").read_text()
    from guideflow.cli.main import app

    for command in app.registered_commands:
        name = command.name or command.callback.__name__
        assert f"## guideflow {name}" in text


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in SITE:
        assert f": {page.relative_to(DOCS).as_posix()}\n" in navigation
