"""Importing guideflow and listing what there is stays light: the rules; `benchmarks/startup.py` has the times."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import guideflow as gf

HEAVY = [
    "PIL",
    "accelerate",
    "diffusers",
    "gradio",
    "insightface",
    "kornia",
    "matplotlib",
    "onnxruntime",
    "open_clip",
    "pandas",
    "rich",
    "scipy",
    "segmentation_models_pytorch",
    "sympy",
    "timm",
    "torchvision",
    "tqdm",
    "transformers",
    "typer",
]


def run(code, *, torch_first=False):
    """Which heavy packages a fresh interpreter imports; with torch first, those of torch's own do not count."""
    watched = HEAVY if torch_first else [*HEAVY, "torch"]
    code = f"{'import torch' if torch_first else ''}\nimport json, sys\nbefore = set(sys.modules)\n{code}"
    code += f"\nprint(json.dumps(sorted((set(sys.modules) - before) & set({watched!r}))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def command(*arguments):
    return f"from guideflow.__main__ import main\nassert main({list(arguments)!r}) == 0"


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


@pytest.mark.parametrize(
    "package",
    ["guideflow", *sorted({p.module for p in gf.plugins() if p.module.startswith("guideflow_")})],
)
def test_what_type_checkers_see_is_what_there_is(package):
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {}
    for node in (node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)):
        for name in node.names:
            assert name.name == name.asname, "a public name is written `import X as X`"
            seen[name.name] = getattr(importlib.import_module(node.module), name.name)
    assert seen.keys() <= set(dir(module))
    assert {name: getattr(module, name) for name in seen} == seen
    stars = {}
    exec(f"from {package} import *", stars)
    lazy = vars(module).get("_homes", {})
    assert lazy.keys() <= seen.keys() and lazy.keys() <= stars.keys()


def test_a_public_name_wins_over_the_module_of_the_same_name(tmp_path):
    """As `solve` and `schedule` of guideflow do, whichever of the two is asked for first."""
    package = tmp_path / "lazy_example"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from guideflow._lazy import lazy\n"
        "__getattr__, __dir__ = lazy(__name__, {'solve': ('solve',), 'other': ('plan',)}, submodules=('below',))\n"
    )
    (package / "solve.py").write_text("solve = 'the name'\n")
    (package / "plan.py").write_text("")
    (package / "other.py").write_text("import lazy_example.solve, lazy_example.plan\nplan = 'the name'\n")
    (package / "below.py").write_text("")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import lazy_example, lazy_example.solve, lazy_example.plan\n"
        "for _ in range(2): assert lazy_example.solve == lazy_example.plan == 'the name'\n"
        "from lazy_example import plan, solve\n"
        "assert plan == solve == 'the name'\n"
        "assert lazy_example.below is sys.modules['lazy_example.below']\n"
        "assert {'solve', 'plan', 'below'} <= set(dir(lazy_example)) and not hasattr(lazy_example, 'nothing')"
    )
    assert run(code) == []
    assert all(map(inspect.isfunction, (gf.solve, gf.schedule, importlib.import_module("guideflow.solve").solve)))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'guideflow' has no attribute 'slove'"):
        _ = gf.slove
