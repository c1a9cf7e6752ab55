"""The recipes of CONTRIBUTING.md: each done as it stands, in a temporary package."""

import importlib
import re
import sys
from pathlib import Path

import pytest

import guideflow as gf
import guideflow_avatars
from guideflow import registry
from guideflow.__main__ import main
from guideflow.testing import check_loss, check_sampler, check_solver, fake_distribution

pytestmark = pytest.mark.usefixtures("without_plots")

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install the file of a recipe as a package of its own, and work in an empty folder."""
    site, work = tmp_path / "site", tmp_path / "work"
    site.mkdir()
    work.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.chdir(work)
    monkeypatch.setenv("COLUMNS", "200")

    def add(name, kind, what):
        hook = f"\n\n@gf.hookimpl\ndef {registry.HOOKS[kind]}():\n    return {{{name!r}: {what}}}\n"
        fake_distribution(site, f"{name} = {name}", FILES[name] + hook)
        importlib.invalidate_caches()
        registry.refresh()

    yield add
    registry.refresh()
    for name in FILES:
        sys.modules.pop(name, None)


def test_there_are_three():
    assert list(FILES) == ["halves", "brightness", "sign"]


def test_a_family(install, capsys):
    install("halves", "sampler", "HALVES.entry()")
    assert main(["list", "samplers"]) == 0
    assert "SD 1.5; 1 to 10 steps; CreativeML OpenRAIL-M" in capsys.readouterr().out
    assert main(["info", "halves"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "num_steps int = 3 1 to 10." in said and "dtype" in said
    small = {"checkpoint": guideflow_avatars.BASE, "image_size": 64}
    check_sampler(lambda: gf.load_sampler("halves", **small), prompts=("a person", ""))


def test_an_option_of_a_loss(install, capsys):
    install("brightness", "loss", "Brightness")
    assert main(["info", "brightness"]) == 0
    assert 'channel str = \'all\' "all", "red", "green" or "blue".' in " ".join(capsys.readouterr().out.split())
    run = ["run", "--sampler", "toy-mixture", "--loss", "brightness:channel=red"]
    assert main([*run, "--iterations", "1", "--out", "out"]) == 0
    assert main(["run", "--resume", "--out", "out", "--iterations", "2"]) == 0
    assert gf.Solution.load("out").state.iteration == 2
    capsys.readouterr()
    assert main([*run[:-1], "brightness:channel=pink", "--out", "other"]) == 2
    assert "Got channel='pink'. Expected one of: 'all', 'red', 'green', 'blue'." in capsys.readouterr().err
    assert main([*run[:-1], "brightness:chanel=red", "--out", "other"]) == 2
    assert "Did you mean 'channel'?" in capsys.readouterr().err
    check_loss(lambda: gf.load_loss("brightness", channel="red"), name="brightness")


def test_a_solver(install):
    install("sign", "solver", "Sign")
    check_solver(lambda: gf.load_solver("sign"))
    run = ["run", "--sampler", "toy-mixture", "--loss", "loss.py:dark", "--iterations", "2"]
    Path("loss.py").write_text("def dark(image):\n    return image.flatten(1).mean(1)\n")
    assert main([*run, "--solver", "momentum:solver=sign:scale=0.2", "--out", "out"]) == 0
    assert gf.Solution.load("out").configs["solver"]["options"]["solver"] == {"name": "sign", "options": {"scale": 0.2}}
