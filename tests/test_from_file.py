"""Losses from a file, without any packaging."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import guideflow as gf
from guideflow.__main__ import main
from guideflow.cli.reading import split_name
from guideflow.errors import BrokenPlugin, CannotResume, InvalidArgument, UnknownPlugin

pytestmark = pytest.mark.usefixtures("without_plots")

SOURCE = '''
from dataclasses import dataclass

import guideflow as gf
from shades import LEVELS

@dataclass
class Grey(gf.Loss):
    """Distance to a grey."""

    shade: str = "dark"
    gain: float = 1.0

    def __post_init__(self):
        if self.shade not in LEVELS:
            raise ValueError(f"no shade {self.shade}")

    def __call__(self, image):
        return self.gain * (image - LEVELS[self.shade]).square().flatten(1).mean(1)

def redness(image, strength=1.0):
    return -strength * image[:, 0].flatten(1).mean(1)

both = gf.balanced(Grey("light"), gf.as_loss(redness).scheduled(end=2, after=0.5))
_hidden = 3
'''
IMAGE = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my losses").mkdir()
    (tmp_path / "my losses" / "shades.py").write_text('LEVELS = {"dark": 0.1, "light": 0.9}\n')
    path = tmp_path / "my losses" / "mine.py"
    path.write_text(SOURCE)
    return "my losses/mine.py"


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("style", "style", ""),
        (" style :reference=a.py,b=2", "style", "reference=a.py,b=2"),
        ("style:reference=a.py:Name", "style", "reference=a.py:Name"),
        ("a/b c.py:Name", "a/b c.py:Name", ""),
        ("a.py:Name:b=c.py:d,e=1", "a.py:Name", "b=c.py:d,e=1"),
        ("a.py", "a.py", ""),
        ("a.py:b=1", "a.py", "b=1"),
        (r"C:\a\b.py:Name:c=1", r"C:\a\b.py:Name", "c=1"),
    ],
)
def test_names_and_options_are_told_apart(text, name, options):
    assert split_name(text) == (name, options)


def test_a_class_is_made_with_the_options(file):
    loss = gf.load_loss(f"{file}:Grey", shade="light", gain=2.0)
    torch.testing.assert_close(loss(IMAGE), 2 * (IMAGE - 0.9).square().flatten(1).mean(1))
    assert gf.registry.config(loss) == {"name": f"{file}:Grey", "options": {"shade": "light", "gain": 2.0}}
    with pytest.raises(InvalidArgument, match=r"has no option 'shad'\. Did you mean 'shade'"):
        gf.load_loss(f"{file}:Grey", shad="light")


def test_a_function_is_the_loss_itself(file):
    torch.testing.assert_close(gf.load_loss(f"{file}:redness")(IMAGE), -IMAGE[:, 0].flatten(1).mean(1))
    loss = gf.load_loss(f"{file}:redness", strength=3.0)
    torch.testing.assert_close(loss(IMAGE), -3 * IMAGE[:, 0].flatten(1).mean(1))
    assert loss.describe() == "redness"
    with pytest.raises(InvalidArgument, match="has no option 'image'"):
        gf.load_loss(f"{file}:redness", image=3.0)


def test_a_loss_that_the_file_made_is_taken_as_it_is(file):
    assert gf.load_loss(f"{file}:both").describe() == "balanced(grey + redness (to 2))"


def test_a_file_is_imported_once_and_again_when_it_changes(file):
    assert type(gf.load_loss(f"{file}:Grey")) is type(gf.load_loss(f"{file}:Grey"))
    Path(file).write_text(SOURCE.replace("class Grey", "class Gray").replace('Grey("', 'Gray("'))
    assert type(gf.load_loss(f"{file}:Gray")).__name__ == "Gray"


def test_what_a_file_made_comes_out_of_a_pickle_elsewhere(file, tmp_path):
    losses = [gf.load_loss(f"{file}:Grey", gain=2.0), gf.load_loss(f"{file}:redness", strength=3.0)]
    losses.append(losses[0] + losses[1])
    (tmp_path / "losses.pickle").write_bytes(pickle.dumps(losses))
    code = "import pickle, sys, torch; x = torch.full((1, 3, 4, 4), 0.3)\n"
    code += "print([float(one(x)[0]) for one in pickle.load(open(sys.argv[1], 'rb'))])"
    command = [sys.executable, "-c", code, str(tmp_path / "losses.pickle")]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert json.loads(found) == pytest.approx([float(one(torch.full((1, 3, 4, 4), 0.3))[0]) for one in losses])
    Path(file).write_text(SOURCE + "\n# edited\n")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode and "is not there any more as it was" in done.stderr


def test_what_is_missing_is_named(file):
    with pytest.raises(UnknownPlugin, match=r"There is no file nowhere\.py"):
        gf.load_loss("nowhere.py:Grey")
    with pytest.raises(UnknownPlugin, match=r"no loss Gray in .*Did you mean 'Grey'\? It defines: Grey, redness, both"):
        gf.load_loss(f"{file}:Gray")
    with pytest.raises(UnknownPlugin, match=r"say which loss in it, as in my losses/mine\.py:Grey"):
        gf.load_loss(file)
    with pytest.raises(UnknownPlugin, match="no loss LEVELS"):
        gf.load_loss(f"{file}:LEVELS")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("\n\nraise ValueError('no\\nluck')", r"broken\.py cannot be imported, line 3: ValueError: no luck"),
        ("import sys\nsys.exit(3)", r"line 2: SystemExit: 3"),
        ("def f(:\n", r"line 1: SyntaxError: "),
        ("import nothing_of_that_name", r"line 1: ModuleNotFoundError: No module named"),
    ],
)
def test_what_an_import_raises_is_told_in_one_line(tmp_path, capsys, source, says):
    (tmp_path / "broken.py").write_text(source)
    with pytest.raises(BrokenPlugin, match=says):
        gf.load_loss(str(tmp_path / "broken.py") + ":Grey")
    assert main(["run", "--sampler", "toy-linear", "--loss", f"{tmp_path}/broken.py:Grey"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "cannot be imported" in error


def test_a_run_from_the_command_line(file, capsys):
    losses = ["--loss", f"0.5*{file}:Grey:shade=light,gain=3", "--loss", f"{file}:redness"]
    run = ["run", "--sampler", "toy-mixture", *losses, "--solver", "flowgrad"]
    assert main([*run, "--iterations", "4", "--out", "whole"]) == 0
    assert main([*run, "--iterations", "2", "--out", "parts"]) == 0
    history = gf.Solution.load("whole").history
    torch.testing.assert_close(history["loss"], 0.5 * history["grey"] + history["redness"])
    capsys.readouterr()
    # What a saved run names as a file is not executed on its word.
    assert main(["run", "--resume", "--out", "parts", "--iterations", "4"]) == 2
    assert "Give it again" in capsys.readouterr().err
    assert main(["run", "--resume", "--out", "parts", "--iterations", "4", *losses]) == 0
    assert torch.equal(gf.Solution.load("parts").images, gf.Solution.load("whole").images)
    with pytest.raises(CannotResume, match="read from the file"):
        gf.resume("parts", max_iterations=6)


def test_a_class_that_refuses_is_one_line(file, capsys):
    assert main(["run", "--sampler", "toy-linear", "--loss", f"{file}:Grey:shade=pink"]) == 2
    assert "cannot be made with shade='pink': no shade pink." in capsys.readouterr().err
