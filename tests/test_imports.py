"""Importing guideflow and listing what there is stays light: the rules; `benchmarks/startup.py` has the times."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

import guideflow as gf
from guideflow import registry
from guideflow._require import SLOW
from guideflow.testing import ConformanceFailure, check_loss, fake_distribution


def run(code, *, torch_first=False):
    """Which heavy packages a fresh interpreter imports; with torch first, those of torch's own do not count."""
    watched = [*SLOW, "pandas", "sympy", "tqdm", *([] if torch_first else ["torch"])]
    code = f"{'import torch' if torch_first else ''}\nimport json, sys\nbefore = set(sys.modules)\n{code}"
    code += f"\nprint(json.dumps(sorted((set(sys.modules) - before) & set({watched!r}))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def command(*arguments):
    return f"from guideflow.__main__ import main\nassert main({list(arguments)!r}) == 0"


def test_what_is_slow_is_listed_once():
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    banned = re.search(r"banned-module-level-imports = \[(.*?)\]", text, re.DOTALL)[1]
    assert re.findall(r'"(\w+)"', banned) == list(SLOW)


OWN = {"rich", "typer"}  # what the command line is made of


def test_importing_guideflow_and_every_plugin_imports_neither_torch_nor_anything_heavy():
    modules = sorted({plugin.module for plugin in gf.plugins() if plugin.distribution == "guideflow"})
    code = "from guideflow import registry\nfor kind in registry.HOOKS: registry.offers(kind)"
    assert run(f"import guideflow, {', '.join(modules)}\n{code}") == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["run", "--help"], ["list"], ["info", "perflow"]], ids=" ".join
)
def test_the_command_line_answers_without_torch(arguments):
    assert set(run(command(*arguments))) <= OWN


def test_with_torch_everything_public_and_every_description_import_nothing_heavy():
    code = "import guideflow as gf\nfor name in dir(gf): getattr(gf, name)\nfrom guideflow.__main__ import main\n"
    code += "for name in ('anchored', 'avatars-identity', 'toy-linear'): assert main(['info', name]) == 0"
    assert set(run(code, torch_first=True)) <= OWN


STUBS = sorted({path.parent.name for path in Path(gf.__file__).parent.parent.glob("**/guideflow*/__init__.pyi")})


@pytest.mark.parametrize("package", STUBS)
def test_what_type_checkers_see_is_what_there_is(package):
    """The stub of a package is the one list of its names; what is written `X as X` there is public."""
    module = importlib.import_module(package.partition(".")[0])
    names = [
        node.names for node in ast.walk(ast.parse(Path(module.__file__ + "i").read_text())) if hasattr(node, "names")
    ]
    names = {name.name for group in names for name in group if name.name == name.asname}
    assert names == set(module.__all__) == set(dir(module))
    assert all(hasattr(module, name) for name in names)
    stars = {}
    exec(f"from {module.__name__} import *", stars)
    assert names <= stars.keys()


def test_the_public_surface_stays_small():
    assert len([name for name in gf.__all__ if not inspect.ismodule(getattr(gf, name))]) <= 46


def test_no_module_is_called_like_a_public_name():
    modules = {path.stem for path in Path(gf.__file__).parent.iterdir()}
    assert not [name for name in gf.__all__ if name in modules and not inspect.ismodule(getattr(gf, name))]


LOSS = """
import guideflow as gf
import {}

class Dark(gf.Loss):
    def __call__(self, image):
        gf.check_image(image)
        return image.float().square().flatten(1).mean(1)

@gf.hookimpl
def guideflow_losses():
    return {{"dark": Dark}}
"""


@pytest.mark.parametrize("imported", ["torch", "PIL.Image"])
def test_the_check_of_a_light_import_fails_where_it_should(tmp_path, monkeypatch, imported):
    fake_distribution(tmp_path, "dark = plugin_dark", LOSS.format(imported))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    registry.refresh()
    try:
        slow = pytest.raises(ConformanceFailure, match=r"light-import: .* also imports PIL")
        with slow if imported == "PIL.Image" else nullcontext():
            check_loss(lambda: gf.load_loss("dark"), name="dark")
    finally:
        registry.refresh()
        del sys.modules["plugin_dark"]
