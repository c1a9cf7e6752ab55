"""What `guideflow run` takes and leaves: seeds, references, files of the user's, pictures and films, resuming."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import guideflow as gf
import guideflow_avatars
from guideflow import images
from guideflow.__main__ import main
from guideflow.cli import reading
from guideflow.errors import CannotResume, InvalidImage
from guideflow.losses.detections import DetectionLoss
from guideflow.losses.matching import Detections

FILE = """
from dataclasses import dataclass

import guideflow as gf
from guideflow.toy import ToyMixture

def grey(image, shade=0.5, gain=1.0):
    return gain * (image - shade).square().flatten(1).mean(1)

def tiny(image):
    return 1e-7 * grey(image)

def fails(image):
    raise_ = {}
    return image.flatten(1).mean(1) / raise_["no such key"]

both = gf.as_loss(grey) + 0.5 * gf.as_loss(tiny)

class Small(ToyMixture):
    def __init__(self, num_steps=2):
        super().__init__(size=8, num_steps=num_steps)

def made(num_steps=3):
    return ToyMixture(size=8, num_steps=num_steps)

@dataclass(frozen=True)
class Rule(gf.ControlSolver):
    scale: float = 0.1
    name = "rule"

    def move(self, problem, state):
        return gf.Move.of_controls(-self.scale * state.rollout.gradients[1:])
"""
RUN = ["run", "--sampler", "toy-mixture:size=8", "--candidates", "1", "--iterations", "2"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: Any, without_plots: None) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("my.py").write_text(FILE)
    return tmp_path


def told(capsys: Any) -> str:
    return str(capsys.readouterr().err.splitlines()[-1])


@pytest.mark.parametrize(
    ("typed", "seeds"), [(["0:3"], (0, 1, 2)), (["7", "2:4"], (7, 2, 3)), (["5:6"], (5,)), (["0"], (0,))]
)
def test_seeds_may_be_ranges(typed: list[str], seeds: tuple[int, ...]) -> None:
    assert main([*RUN, "--loss", "my.py:grey", *(f"--seed={one}" for one in typed), "--iterations", "0"]) == 0
    assert gf.Solution.load("out").seeds == seeds


@pytest.mark.parametrize("typed", ["3:3", "4:2", "0:", ":3", "a:b", "0:100000", "1-3"])
def test_what_is_no_seed_is_refused(typed: str, capsys: Any) -> None:
    assert main([*RUN, "--loss", "my.py:grey", f"--seed={typed}"]) == 2
    assert "Invalid value for '--seed'" in told(capsys) and not Path("out").exists()


def test_stopping_and_keeping_reach_the_solve(capsys: Any) -> None:
    options = ["--patience", "2", "--target-loss", "0.01", "--keep", "last", "--time-limit", "1e6", "--save-every", "1"]
    assert main([*RUN, "--loss", "my.py:grey", *options]) == 0
    settings = gf.Solution.load("out").settings
    assert (settings.patience, settings.target_loss, settings.keep) == (2, 0.01, "last")
    written = sorted(path.name for path in Path("out/iterations").iterdir())
    assert written == ["iteration-0000.png", "iteration-0001.png", "iteration-0002.png"]
    assert main([*RUN, "--loss", "my.py:grey", "--time-limit", "1e-9", "--out", "short"]) == 0
    assert gf.Solution.load("short").result == (gf.Result.TIME_LIMIT,)
    capsys.readouterr()
    for bad in (["--keep", "worst"], ["--time-limit", "0"], ["--patience", "0"], ["--save-every", "0"]):
        assert main([*RUN, "--loss", "my.py:grey", *bad, "--out", "bad"]) == 2 and not Path("bad").exists()


def test_samplers_and_solvers_come_from_files_too(capsys: Any) -> None:
    parts = ["--sampler", "my.py:Small:num_steps=3", "--loss", "my.py:grey", "--solver", "my.py:Rule:scale=0.2"]
    assert main(["run", *parts, "--iterations", "2"]) == 0
    saved = gf.Solution.load("out")
    assert len(saved.controls) == 3 and saved.configs["solver"]["options"] == {"scale": 0.2}
    capsys.readouterr()
    go_on = ["run", "--resume", "--iterations", "4"]
    assert main(go_on) == 2
    assert "Give it again beside --resume" in told(capsys)
    assert main([*go_on, *parts]) == 0
    assert gf.load_sampler("my.py:made", num_steps=5).num_steps == 5
    with pytest.raises(gf.errors.UnknownPlugin, match=r"no sampler Smal in my\.py\. Did you mean 'Small'"):
        gf.load_sampler("my.py:Smal")
    with pytest.raises(gf.errors.BrokenPlugin, match="made as a Rule"):
        gf.load_sampler("my.py:Rule")


def test_a_loss_from_a_file_is_asked_for_with_all_that_was_typed(capsys: Any) -> None:
    losses = ["--loss", "0.5*my.py:grey:shade=0.2,gain=2", "--loss", "my.py:both"]
    assert main([*RUN, *losses]) == 0
    capsys.readouterr()
    again = ["run", "--resume", "--iterations", "4"]
    assert main(again) == 2
    said = told(capsys)
    assert said.endswith("Give it again beside --resume: --loss '0.5*my.py:grey:shade=0.2,gain=2' --loss my.py:both")
    wrong = {
        "it has the terms": ["--loss", "0.5*my.py:grey:shade=0.2,gain=2"],
        "it is ": ["--loss", "0.5*my.py:grey:shade=0.9,gain=2", "--loss", "my.py:both"],
    }
    for why, given in wrong.items():
        assert main([*again, *given]) == 2
        said = told(capsys)
        assert why in said and "--loss '0.5*my.py:grey:shade=0.2,gain=2' --loss my.py:both" in said
        assert gf.Solution.load("out").state.iteration == 2
    assert main([*again, *losses]) == 0
    # In Python, too.
    with pytest.raises(CannotResume, match=r"it has the terms .*gf\.resume\(\.\.\., loss=loss\)"):
        gf.resume("out", max_iterations=6, loss=gf.load_loss("my.py:tiny"))


def test_what_is_rebuilt_needs_no_loss_and_takes_the_same_one() -> None:
    reference = guideflow_avatars.portrait("ada")
    loss = ["--loss", f"avatars-identity:reference={reference}"]
    assert main([*RUN, *loss]) == 0
    assert main(["run", "--resume", "--iterations", "3"]) == 0
    assert main(["run", "--resume", "--iterations", "4", *loss]) == 0


def test_references_may_be_folders_patterns_names_and_of_home(home: Path) -> None:
    portrait = guideflow_avatars.portrait
    Path("ada").mkdir()
    for name in ("ada", "ben"):
        shutil.copy(portrait(name), f"ada/{name}.png")
    Path("ada/notes.txt").write_text("no picture")
    both = [images.read_image(portrait(name))[0] for name in ("ada", "ben")]
    for typed in ("ada", "ada/", "ada/*.png", "~/ada", str(home / "ada")):
        found = gf.load_loss("avatars-identity", reference=typed).references()
        assert len(found) == 2 and all(map(torch.equal, found, both)), typed
    for typed in ("cleo", str(portrait("cleo"))):
        (one,) = gf.load_loss("avatars-identity", reference=typed).references()
        assert torch.equal(one, images.read_image(portrait("cleo"))[0])
    # The * of a pattern is no weight's.
    assert [reading.name_of_loss(one) for one in ("a:reference=ada/*.png", "0.5*b:reference=*", "c")] == ["a", "b", "c"]
    # A folder is of one person, where a list is of several.
    assert gf.registry.config(gf.load_loss("avatars-identity", reference=["cleo", "ada"]))["options"] == {
        "reference": [str(portrait("cleo")), "ada/ada.png", "ada/ben.png"]
    }
    shown = gf.load_loss("identity", reference="eileen-collins")
    assert len(shown.references()) == 1
    Path("collins").mkdir()
    for i in range(2):
        images.save_image(f"collins/{i}.png", shown.references()[0])
    assert gf.load_loss("identity", reference="collins").describe() == "identity"
    assert gf.load_loss("identity", reference="collins", same_person=True).describe() == "identity"
    Path("empty").mkdir()
    for typed, why in (
        ("adda", r"no file adda, nor a bundled picture .* Did you mean 'ada'\?"),
        ("empty", "There is no picture in empty"),
        ("no*.png", r"No picture is called like 'no\*\.png'"),
        ("dan/x.png", "There is no file dan/x.png"),
    ):
        with pytest.raises(InvalidImage, match=why):
            gf.load_loss("avatars-identity", reference=typed)


def test_a_folder_of_references_is_for_losses_that_have_none(home: Path) -> None:
    Path("people").mkdir()
    shutil.copy(guideflow_avatars.portrait("dan"), "people")
    losses = ["--loss", "avatars-identity", "--loss", "0.5*avatars-style:reference=ada", "--loss", "my.py:grey"]
    assert main([*RUN, *losses, "--reference-dir", "people", "--iterations", "0"]) == 0
    terms = gf.Solution.load("out").configs["loss"]["terms"]
    assert terms[0]["loss"]["options"] == {"reference": ["people/dan.png"]}
    assert terms[1]["loss"]["options"] == {"reference": str(guideflow_avatars.portrait("ada"))}


def test_a_run_draws_what_it_did(capsys: Any) -> None:
    loss = ["--loss", "avatars-identity:reference=ada", "--loss", "0*my.py:tiny"]
    assert main([*RUN, *loss, "--seed", "0:2", "--gif", "--json", "--prompt", "a red disc"]) == 0
    captured = capsys.readouterr()
    about = json.loads(captured.out)
    assert [one["seed"] for one in about["images"]] == [0, 1] and about["images"][1]["file"] == "out/guided-01.png"
    assert about["go_on"] == "guideflow run --resume --out out --iterations 14"
    assert about["drawn"] == ["out/comparison.png", "out/guided.gif", "out/plot.png"]
    with Image.open("out/comparison.png") as sheet:
        assert sheet.width > 900 and sheet.height > 700  # three columns and two rows that can be seen
    with Image.open("out/guided.gif") as film:
        assert film.n_frames == 3 and film.info["duration"] == 330
    # A folder with a run is written over when that is said, and what is not of the run stays.
    Path("out/mine.txt").write_text("mine")
    before = {path.name for path in Path("out").glob("*.safetensors")}
    assert main([*RUN, *loss]) == 2
    assert "type --force to write over it" in told(capsys)
    assert main([*RUN, *loss, "--force"]) == 0
    assert Path("out/mine.txt").exists() and not Path("out/guided-01.png").exists()
    assert not before & {path.name for path in Path("out").glob("*.safetensors")}
    capsys.readouterr()
    assert main(["run", "--resume", "--force"]) == 2 and "takes --force from the saved run" in told(capsys)


def test_the_comparison_is_opened(monkeypatch: Any) -> None:
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", opened.append)
    assert main([*RUN, "--loss", "my.py:grey", "--open"]) == 0
    assert opened == ["out/comparison.png"]


def test_a_tiny_loss_is_shown(capsys: Any) -> None:
    assert main([*RUN, "--loss", "my.py:tiny"]) == 0
    shown = capsys.readouterr()
    assert "e-09" in shown.out and "0.0000" not in shown.out + shown.err


def test_an_error_in_the_users_own_loss_names_the_users_own_line(capsys: Any) -> None:
    assert main([*RUN, "--loss", "my.py:fails"]) == 1
    assert told(capsys).endswith(
        "KeyError: 'no such key' (my.py, line 15: return image.flatten(1).mean(1) / raise_[\"no such key\"])"
    )
    assert main(["--traceback", *RUN, "--loss", "my.py:fails"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    assert main([*RUN, "--loss", "my.py:grey:gain=x", "--traceback"]) in (1, 2)
    assert "Traceback (most recent call last)" in capsys.readouterr().err


class Blind(DetectionLoss):
    """Finds nothing, anywhere."""

    name, extra, seeks, missing_error = "blind", "face", "face", InvalidImage

    def __init__(self) -> None:
        super().__init__([[torch.zeros(3, 4, 4)]], "skip", 2.0, torch.zeros(()))

    def detect(self, image: torch.Tensor) -> Detections:
        return Detections(torch.empty(0, dtype=torch.long), torch.empty(0, 4), torch.empty(0, 1), torch.empty(0, 1) > 0)

    def distances(self, image: Any, index: Any, place: Any) -> Any: ...
    def center(self, image: Any, subject: int) -> Any: ...
    def taken(self, place: Any, others: Any) -> bool: ...


def test_a_face_that_was_never_found_is_no_success(capsys: Any, monkeypatch: Any) -> None:
    Path("blind.py").write_text("from test_cli_options import Blind\n\nblind = Blind()\n")
    monkeypatch.setitem(sys.modules, "test_cli_options", sys.modules[__name__])
    assert main([*RUN, "--loss", "blind.py:blind", "--seed", "0:2"]) == 1
    said = told(capsys)
    assert "The loss 'blind' found no face in any of the pictures, so it could not guide." in said
    assert gf.Solution.load("out").state.iteration == 2


def test_a_cartoon_cannot_look_like_a_photograph() -> None:
    with pytest.warns(UserWarning, match="avatars-perflow draws cartoons and identity knows photographs"):
        gf.registry.loading.check_domains("avatars-perflow", ["my.py:grey", "identity", "avatars-style"])
    gf.registry.loading.check_domains("avatars-perflow", ["avatars-identity"])
    gf.registry.loading.check_domains("my.py:Small", ["identity"])
