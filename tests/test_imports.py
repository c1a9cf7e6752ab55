"""Importing guideflow and listing what there is stays light."""

import json
import subprocess
import sys

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
    "timm",
    "torchvision",
    "tqdm",
    "transformers",
    "typer",
]


def run(code):
    """Last line that a fresh interpreter prints, as JSON. torch comes first: what it imports is not ours."""
    code = f"import json, sys, time, torch\nbefore = set(sys.modules)\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


NEW = f"print(json.dumps(sorted((set(sys.modules) - before) & set({HEAVY!r}))))"


def test_importing_guideflow_imports_nothing_heavy():
    assert run(f"import guideflow\n{NEW}") == []


def test_importing_guideflow_takes_less_than_half_a_second_after_torch():
    code = "start = time.process_time(); import guideflow; print(time.process_time() - start)"
    assert min(run(code) for _ in range(3)) < 0.5


@pytest.mark.parametrize(
    "module", sorted({plugin.module for plugin in gf.plugins() if plugin.distribution == "guideflow"})
)
def test_importing_a_plugin_imports_nothing_heavy(module):
    assert run(f"import {module}\n{NEW}") == []


def test_listing_everything_imports_nothing_heavy():
    code = "from guideflow import registry\nfor kind in registry.HOOKS: registry.offers(kind)"
    assert run(f"{code}\n{NEW}") == []
