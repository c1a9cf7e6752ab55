"""Code on the pages fits a screen of 1280 pixels without scrolling; docs/style.css says how wide that is."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST = 98
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if "examples" not in page.parts)
FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^(Arguments|Returns|Raises|Attributes|Yields|Parameters|Warns):$")


def code_of(docstring: str) -> Iterator[str]:
    """Lines of a docstring that a page shows as code: those indented after an empty line, outside of sections."""
    inside, before = False, ""
    for line in inspect.cleandoc(docstring).splitlines():
        if SECTION.match(line):
            return
        inside = (line.startswith("    ") and (inside or not before)) or (inside and not line)
        if inside:
            yield line.removeprefix("    ")
        before = line


def test_code_in_docstrings_is_found() -> None:
    said = "Do.\n\n    a = b\n\n    c = d\nand so on\n\n    e\n\nArguments:\n    f: g.\n\n        h\n"
    assert [line for line in code_of(said) if line] == ["a = b", "c = d", "e"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_of_a_page_fits(page: Path) -> None:
    lines = [line for block in FENCED.findall(page.read_text()) for line in block.splitlines()]
    assert not [line for line in lines if len(line) > MOST]


@pytest.mark.parametrize("folder", ["guideflow", "plugins", "samplers"])
def test_code_of_docstrings_fits(folder: str) -> None:
    wide = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                said = ast.get_docstring(node, clean=False) or ""
                wide += [f"{path.name}: {line}" for line in code_of(said) if len(line) > MOST]
    assert not wide, "\n".join(wide)
