"""The page that finds each of the paper's equations in code and tests: every reference exists, under one spelling."""

import ast
import re
from pathlib import Path

import pytest

from guideflow.solvers import Anchored

ROOT = Path(__file__).parents[1]
ROWS = re.findall(
    r"^\| ((?:Eq|Alg|Prop)[^|]*?) \|(?:[^|]*)\| (.*) \| (.*) \|$", (ROOT / "docs/design/rectifid.md").read_text(), re.M
)


def defined(path: str) -> set[str]:
    """Names of classes, functions and methods of a file."""
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_every_equation_has_a_row() -> None:
    numbers = [f"Eq. ({n})" for n in (8, 11, 13, 14, 15, 16)]
    assert [row[0] for row in ROWS] == [*numbers, "Algorithm 1", "Proposition 1", "Proposition 2"]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_its_code_and_its_test_exist(row: tuple[str, str, str]) -> None:
    for cell in row[1:]:
        references = re.findall(r"`([\w/]+\.py)::([\w.]+)`", cell)
        assert references, cell
        for path, name in references:
            assert name in defined(path), f"{path} has no {name}"


def test_the_derivation_stands_where_the_rule_is() -> None:
    for line in ("z_k' - e_k' = (z_k - e_k) + c_k (zhat_k - e_k)", "zhat_k - e_k = -s N(g_{k-1})"):
        assert line in (Anchored.__doc__ or "") and line in (ROOT / "docs/design/rectifid.md").read_text()


def test_equations_are_spelled_in_one_way() -> None:
    for folder in ("guideflow", "plugins", "samplers", "docs", "tests"):
        for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.md")]:
            found = re.findall(r"\bEqs?\b\.? ?\d[^\n]*|\bEqs\. \([^\n]*", path.read_text())
            assert not found, f"{path.relative_to(ROOT)}: {found}; write Eq. (15)"
