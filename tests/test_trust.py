"""A saved run may come from anybody: what it can make resuming read and run, and what an honest one is spared."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import guideflow as gf
import tiny_clip
import traps
from guideflow import images, registry
from guideflow.__main__ import main
from guideflow.errors import CannotResume
from guideflow.testing import fake_distribution
from problems import assert_same

SOURCE = '''
import guideflow as gf
from pathlib import Path
from torch import Tensor
from guideflow import images

class Paths(gf.Loss):
    """Distance to a picture, by its path only."""

    name = "paths"

    def __init__(self, reference: str, more: object = None):
        self._references = tuple(images.read_image(reference))

    def __call__(self, image):
        return (image - self._references[0]).square().flatten(1).mean(1)

class Pictures(Paths):
    name = "pictures"

    def __init__(self, reference: str | Path | Tensor | list[str | Tensor]):
        several = reference if isinstance(reference, list) else [reference]
        several = [part for one in several for part in (one if isinstance(one, list) else [one])]
        self._references = tuple(one if isinstance(one, Tensor) else images.read_image(one)[0] for one in several)

class Cropped(Pictures):
    """Shows other references than it was given."""

    def references(self):
        return [one[:, 1:] for one in self._references]

@gf.hookimpl
def guideflow_losses():
    return {"paths": Paths, "pictures": Pictures, "cropped": Cropped}
'''


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: Any) -> Any:
    """A working folder with two pictures, and a plugin with losses on pictures."""
    (tmp_path / "plugins").mkdir()
    fake_distribution(tmp_path / "plugins", "pictures = plugin_pictures", SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path / "plugins"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name, grey in (("a.png", 51), ("b.png", 204)):
        images.save_image(name, torch.full((3, 32, 32), grey / 255))
    registry.refresh()
    yield tmp_path / "work"
    monkeypatch.undo()
    registry.refresh()
    sys.modules.pop("plugin_pictures", None)


def solved(loss: Any, iterations: int = 2) -> gf.Solution:
    return gf.solve(gf.load_sampler("toy-mixture"), loss, solver="flowgrad", max_iterations=iterations)


def edit(folder: str | Path, change: Any) -> None:
    """Change the configs that a saved run holds."""
    path = Path(folder) / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest["configs"])
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("reference", ["a.png", ["a.png", "b.png"], ["b.png", ["a.png", "a.png"]]], ids=str)
def test_reference_pictures_are_those_saved_and_need_no_trust(reference: Any, home: Path, monkeypatch: Any) -> None:
    loss = gf.load_loss("pictures", reference=reference)
    whole = solved(loss, 4)
    solved(loss).save("run")
    images.save_image("a.png", torch.zeros(3, 32, 32))  # another picture under the same name
    assert_same(gf.resume("run", max_iterations=4), whole)
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    again = gf.resume("../run", max_iterations=3)
    again.save("again")  # what was resumed resumes as well, from another folder
    assert_same(gf.resume("again", max_iterations=4), whole)
    assert_same(gf.resume(gf.Solution.load("again"), max_iterations=4), whole)


def test_pictures_of_several_terms_go_to_their_own(home: Path) -> None:
    one, two = gf.load_loss("pictures", reference="a.png"), gf.load_loss("pictures", reference=["b.png", "a.png"])
    many = gf.load_loss("pictures", reference=["b.png"] * 9)
    loss = gf.balanced(one, 2 * two) + many.scheduled(start=1)
    whole = solved(loss, 4)
    solved(loss).save("run")
    for name in ("a.png", "b.png"):
        Path(name).unlink()
    assert_same(gf.resume("run", max_iterations=4), whole)


def test_a_file_outside_the_folder_is_named_and_read_with_trust_only(capsys: Any) -> None:
    loss = gf.load_loss("paths", reference="a.png")
    whole = solved(loss, 4)
    solved(loss).save("run")
    with pytest.raises(CannotResume, match=r"outside of run: 'a\.png' \(paths\).*trust=True"):
        gf.resume("run", max_iterations=4)
    assert main(["run", "--resume", "--out", "run", "--iterations", "4"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "'a.png' (paths)" in error and "--trust" in error
    assert_same(gf.resume("run", max_iterations=4, trust=True), whole)
    assert main(["run", "--resume", "--trust", "--out", "run", "--iterations", "4"]) == 0
    assert_same(gf.Solution.load("run"), whole)


def test_trust_is_for_resume_only(capsys: Any) -> None:
    assert main(["run", "--sampler", "toy-mixture", "--loss", "paths:reference=a.png", "--trust"]) == 2
    assert "--trust without --resume" in capsys.readouterr().err


def test_another_picture_under_the_name_is_noticed(home: Path) -> None:
    solved(gf.load_loss("paths", reference="a.png")).save("run")
    shutil.copy("b.png", "a.png")
    with pytest.raises(CannotResume, match=r"other reference images than those saved.*loss=loss"):
        gf.resume("run", max_iterations=4, trust=True)


@pytest.mark.parametrize("gone", [False, True])
def test_another_file_under_the_name_is_noticed(gone: bool, home: Path) -> None:
    Path("layout.txt").write_text("one")
    loss = gf.load_loss("paths", reference="a.png", more={"layout": ["layout.txt", "\0", "x" * 5000]})
    whole = solved(loss, 4)
    solved(loss).save("run")
    assert_same(gf.resume("run", max_iterations=4, trust=True), whole)
    Path("layout.txt").unlink() if gone else Path("layout.txt").write_text("two")
    with pytest.raises(CannotResume, match=r"'layout\.txt' \(paths\) is another file than.*loss=loss"):
        gf.resume("run", max_iterations=4, trust=True)
    assert_same(gf.resume("run", max_iterations=4, loss=loss), whole)


def test_references_that_are_not_what_was_read_do_not_pass_for_it() -> None:
    solved(gf.load_loss("cropped", reference="a.png")).save("run")
    with pytest.raises(CannotResume, match="other reference images than those saved"):
        gf.resume("run", max_iterations=4)


def test_what_was_just_solved_needs_no_trust(home: Path) -> None:
    part, whole = (solved(gf.load_loss("paths", reference="a.png"), count) for count in (2, 4))
    (home / "a.png").unlink()
    assert_same(gf.resume(part, max_iterations=4), whole)


def test_parts_that_are_given_need_no_trust(home: Path) -> None:
    loss = gf.load_loss("paths", reference="a.png")
    solved(loss).save("run")
    assert_same(gf.resume("run", max_iterations=4, loss=loss), solved(loss, 4))


def test_a_file_inside_the_folder_needs_no_trust(home: Path, monkeypatch: Any) -> None:
    (home / "run").mkdir()
    shutil.copy("a.png", "run/a.png")
    loss = gf.load_loss("paths", reference="run/a.png")
    whole = solved(loss, 4)
    solved(loss).save("run")
    assert_same(gf.resume("run", max_iterations=4), whole)
    Path("run/a.png").unlink()
    Path("run/a.png").symlink_to(home / "a.png")  # which is outside
    with pytest.raises(CannotResume, match=r"outside of run: 'run/a\.png'"):
        gf.resume("run", max_iterations=4)


@pytest.mark.parametrize(
    "more",
    [
        "{home}/secret",
        "~/secret",
        "../x",
        "run/../b.png",
        "b.png",
        "local-dir:{home}",
        "https://example.com/weights",
        "file:b.png",
        ["text", ["b.png"]],
        {"a": {"b": "/etc/passwd"}},
        {"/etc/passwd": 1},
        "run/link",
    ],
    ids=str,
)
def test_whatever_names_something_outside_is_named(more: Any, home: Path) -> None:
    solved(gf.load_loss("pictures", reference="a.png")).save("run")
    Path("run/link").symlink_to("/etc")
    more = json.loads(json.dumps(more).replace("{home}", str(home)))
    edit("run", lambda configs: configs.update(loss={"name": "paths", "options": {"reference": "x", "more": more}}))
    with pytest.raises(CannotResume, match=r"names files outside of run: '"):
        gf.resume("run", max_iterations=4)


@pytest.mark.parametrize("more", ["a text / with signs", "owner/name", "owner/name:weights.safetensors", "ViT-B-32"])
def test_texts_and_names_on_the_hub_need_no_trust(more: str) -> None:
    loss = gf.load_loss("paths", reference="a.png", more=more)
    solved(loss).save("run")
    shutil.move("a.png", "run/inside.png")
    edit("run", lambda configs: configs["loss"]["options"].update(reference="run/inside.png"))
    assert gf.resume("run", max_iterations=4).state.iteration == 4


def test_a_folder_inside_may_not_lead_out(home: Path) -> None:
    solved(gf.load_loss("pictures", reference="a.png")).save("run")
    Path("run/model").mkdir()
    Path("run/model/weights").symlink_to(home / "b.png")
    edit("run", lambda configs: configs["sampler"].update(name="perflow", options={"checkpoint": "run/model"}))
    with pytest.raises(CannotResume, match=r"'run/model' \(perflow\)"):
        gf.resume("run", max_iterations=4)


def test_all_parts_are_looked_at_before_any_is_made(home: Path) -> None:
    solved(gf.load_loss("paths", reference="a.png")).save("run")
    edit("run", lambda configs: configs["sampler"]["options"].update(device="/dev/null"))
    with pytest.raises(CannotResume, match=r"'/dev/null' \(toy-mixture\), 'a\.png' \(paths\)"):
        gf.resume("run", max_iterations=4)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("trap", traps.TRAPS)
def test_weights_that_run_code_are_not_loaded_on_the_word_of_a_manifest(
    trap: Any, trust: bool, home: Path, monkeypatch: Any, capsys: Any
) -> None:
    tiny_clip.register(monkeypatch)
    solved(gf.load_loss("pictures", reference="a.png")).save("run")
    trap(home / "run/weights.pt", home / "marker")
    options = {"text": "a boat", "network": "tiny", "checkpoint": "run/weights.pt", "quick_gelu": True}
    edit("run", lambda configs: configs.update(loss={"name": "clip", "options": options}))
    flags = ["--trust"] if trust else []
    with pytest.raises(CannotResume, match="without running code"):
        gf.resume("run", max_iterations=4, trust=trust)
    assert main(["run", "--resume", "--out", "run", "--iterations", "4", *flags]) == 2
    # Nor can the manifest give the word for them, at any depth.
    wrapped = {"terms": [{"weight": 1, "name": "x", "ramps": [], "loss": {"name": "clip", "options": options}}]}
    edit("run", lambda configs: configs.update(loss=wrapped | {"name": ""}))
    options["allow_pickle"] = True
    for loss in ({"name": "clip", "options": options}, wrapped | {"name": ""}):
        edit("run", lambda configs, loss=loss: configs.update(loss=loss))
        with pytest.raises(CannotResume, match=r"made with allow_pickle=True.*Give it again: .*loss=loss"):
            gf.resume("run", max_iterations=4, trust=trust)
        capsys.readouterr()
        assert main(["run", "--resume", "--out", "run", "--iterations", "4", *flags]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1 and "Give it again beside --resume: --loss" in error
    assert not (home / "marker").exists()


@pytest.mark.filterwarnings("ignore:allow_pickle=True")
def test_a_loss_that_was_made_with_allow_pickle_is_given_again(home: Path, monkeypatch: Any) -> None:
    tiny_clip.register(monkeypatch)
    made = tiny_clip.network()
    torch.save(made.state_dict(), "weights.pt")
    options = {"text": "a boat", "network": "tiny", "checkpoint": "weights.pt", "quick_gelu": False}
    loss = gf.load_loss("clip", **options, allow_pickle=True)
    whole = solved(loss, 3)
    solved(loss).save("run")
    with pytest.raises(CannotResume, match=r"allow_pickle=True.*Give it again"):
        gf.resume("run", max_iterations=3, trust=True)
    assert_same(gf.resume("run", max_iterations=3, loss=loss), whole)
    again = "clip:text=a boat,network=tiny,checkpoint=weights.pt,quick_gelu=false,allow_pickle=true"
    assert main(["run", "--resume", "--out", "run", "--iterations", "3", "--loss", again]) == 0
    assert_same(gf.Solution.load("run"), whole)


def test_a_loss_made_by_hand_can_be_given_again_on_the_command_line(home: Path) -> None:
    solved(gf.load_loss("pictures", reference=images.read_image("a.png"))).save("run")
    arguments = ["run", "--resume", "--out", "run", "--iterations", "3"]
    assert main(arguments) == 2
    assert main([*arguments, "--loss", "pictures:reference=a.png"]) == 0


@pytest.mark.parametrize("nested", [False, True])
def test_a_file_of_python_is_not_run_on_the_word_of_a_manifest(nested: bool, home: Path) -> None:
    solved(gf.load_loss("pictures", reference="a.png")).save("run")
    Path("run/evil.py").write_text(f"open({str(home / 'marker')!r}, 'w')\nevil = lambda image: image\n")
    config: Any = {"name": "run/evil.py:evil", "options": {}}
    if nested:
        config = {"balanced": {"terms": [{"weight": 1, "name": "x", "loss": config, "ramps": []}]}}
    edit("run", lambda configs: configs.update(loss=config))
    with pytest.raises(CannotResume, match=r"read from the file run/evil\.py:evil.*Give it again"):
        gf.resume("run", max_iterations=4, trust=True)
    for kind in ("sampler", "solver"):
        edit("run", lambda configs, kind=kind: configs.update({kind: {"name": "run/evil.py:evil", "options": {}}}))
        with pytest.raises(CannotResume):
            gf.resume("run", max_iterations=4, trust=True, loss=gf.load_loss("pictures", reference="a.png"))
    assert not (home / "marker").exists()


def test_configs_that_are_missing_are_asked_for() -> None:
    solved(gf.load_loss("pictures", reference="a.png")).save("run")
    edit("run", lambda configs: configs.clear())
    with pytest.raises(CannotResume, match=r"sampler was made by hand.*sampler=sampler"):
        gf.resume("run", max_iterations=4)
    assert main(["run", "--resume", "--out", "run", "--iterations", "4"]) == 2


@pytest.mark.parametrize("config", [{}, [], "x", {"terms": 3}, {"name": 3, "options": {}}, {"name": "paths"}], ids=str)
@pytest.mark.parametrize("kind", ["sampler", "loss", "solver"])
def test_a_damaged_config_is_refused_in_words(kind: str, config: Any, home: Path) -> None:
    solved(gf.load_loss("pictures", reference="a.png")).save("run")
    edit("run", lambda configs: configs.update({kind: config}))
    with pytest.raises(CannotResume):
        gf.resume("run", max_iterations=4)
