"""How `guideflow run` ends when it does not end well, and what it prints of what others wrote."""

import errno
import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import guideflow as gf
from guideflow import registry, storage
from guideflow.__main__ import main
from guideflow.testing import fake_distribution

pytestmark = pytest.mark.usefixtures("without_plots")

LOSSES = """
import torch

count = 0

def fails(image, at: int = 3):
    global count
    count += 1
    if count == at:
        raise ZeroDivisionError("no [bold] luck")
    return image.flatten(1).mean(1)

def empty(image):
    return image.flatten(1).mean(1) * torch.nan
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    Path("losses.py").write_text(LOSSES)
    return tmp_path


def run(*more: str, loss: str = "losses.py:fails:at=-1") -> int:
    return main(["run", "--sampler", "toy-mixture:size=8", "--candidates", "1", "--loss", loss, *more])


def runs_out(name: str, error: Exception, times: int, monkeypatch: Any) -> None:
    """Have a function fail so often, as where memory has run out."""
    owner, _, attribute = name.rpartition(".")
    whole, left = getattr(import_module(owner), attribute), iter(range(times))

    def fail(*args: Any, **options: Any) -> Any:
        if next(left, None) is not None:
            raise error
        return whole(*args, **options)

    monkeypatch.setattr(name, fail)


@pytest.mark.filterwarnings("ignore:Iteration 0 could not be saved")
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("safetensors.torch.save", MemoryError()),
        ("guideflow.images.save_image", torch.OutOfMemoryError("CUDA out of memory.")),
        ("guideflow.storage.publish", OSError(errno.ENOMEM, "no memory")),
    ],
)
def test_memory_that_runs_out_in_a_save_loses_nothing(name: str, error: Any, monkeypatch: Any, capsys: Any) -> None:
    runs_out(name, error, 2, monkeypatch)  # at the checkpoint and at the end
    assert run("--iterations", "2", "--out", "there") == 2
    told = capsys.readouterr()
    assert "after 2 iterations, which are saved in there. There is not enough memory for what is saved" in told.err
    assert gf.Solution.load("there").state.iteration == 2
    runs_out(name, error, 10**6, monkeypatch)
    assert run("--iterations", "2", "--out", "nowhere") == 1
    told = capsys.readouterr()
    assert "can be saved neither in nowhere nor in" in told.err.splitlines()[-1] and "Traceback" not in told.err
    assert not list(Path().rglob("*.part")) and not Path("nowhere").exists()


def test_memory_that_runs_out_in_a_drawing_is_told(monkeypatch: Any, capsys: Any) -> None:
    runs_out("guideflow.cli.show.comparison", MemoryError(), 1, monkeypatch)
    assert run("--iterations", "1", "--out", "there") == 0
    assert "Not everything could be drawn: MemoryError" in capsys.readouterr().err


def test_a_loss_that_raises_is_one_line_and_its_run_goes_on(capsys: Any) -> None:
    assert run("--iterations", "6", "--out", "part", loss="losses.py:fails:at=5") == 1
    captured = capsys.readouterr()
    told = captured.err.splitlines()[-1]
    assert told.startswith("guideflow: The solve failed after 3 iterations, which are saved in part. ZeroDivisionError")
    assert (
        "no [bold] luck" in told
        and "losses.py, line 10: raise ZeroDivisionError(" in told
        and "Traceback" not in captured.err
    )
    assert "--resume --out part --iterations 6" in captured.out
    assert main(["run", "--resume", "--out", "part", "--loss", "losses.py:fails:at=-1"]) == 0
    assert run("--iterations", "6", "--out", "whole") == 0
    assert torch.equal(gf.Solution.load("part").images, gf.Solution.load("whole").images)


def test_a_loss_that_raises_at_once_leaves_no_folder(capsys: Any) -> None:
    assert run("--out", "none", loss="losses.py:fails:at=1") == 1
    assert "failed before anything was made. ZeroDivisionError: no [bold] luck (" in capsys.readouterr().err
    assert not Path("none").exists()


def test_images_that_are_all_nan_are_no_success(capsys: Any) -> None:
    assert run("--out", "here", loss="losses.py:empty") == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("guideflow: No image could be guided: the loss or its gradient was nan")
    assert "It is the loss 'empty' whose value" in told and "Try another seed or prompt" in told
    assert gf.Solution.load("here").result[0] is gf.Result.NONFINITE_START


def test_which_of_the_terms_is_nan_is_told(capsys: Any) -> None:
    assert run("--out", "here", "--loss", "losses.py:empty") == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "It is the loss 'empty' whose value" in told and "Leave it out, as the others are finite" in told


def test_what_finds_no_room_in_the_end_is_saved_elsewhere(home: Path, monkeypatch: Any, capsys: Any) -> None:
    write = storage.write_whole

    room = [home / "tmp"]

    def full(path: Path, content: bytes) -> None:
        if path.parent.parent not in room:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(storage, "write_whole", full)
    (home / "tmp").mkdir()
    with pytest.warns(UserWarning, match="could not be saved"):
        assert run("--iterations", "2", "--out", "here") == 2
    told = capsys.readouterr().err.splitlines()[-1]
    folder = next((home / "tmp").iterdir())
    assert f"which are saved in {folder}." in told and "No space left on device" in told
    assert gf.Solution.load(folder).state.iteration == 2 and not Path("here").exists()
    # And where there is room nowhere, that is told.
    room.clear()
    with pytest.warns(UserWarning, match="could not be saved"):
        assert run("--iterations", "2", "--out", "there") == 1
    assert "can be saved neither in there nor in" in capsys.readouterr().err.splitlines()[-1]


def test_checkpoints_are_as_far_apart_as_asked(monkeypatch: Any) -> None:
    seen, save = [], gf.Solution.save

    def spy(self: gf.Solution, *args: Any, **options: Any) -> None:
        seen.append(self.state.iteration)
        save(self, *args, **options)

    monkeypatch.setattr(gf.Solution, "save", spy)
    assert run("--iterations", "7", "--checkpoint-every", "3", "--out", "here") == 0
    assert seen == [0, 3, 6, 7]
    assert main(["run", "--resume", "--out", "here", "--iterations", "9", "--checkpoint-every", "4",
                 "--loss", "losses.py:fails:at=-1"]) == 0  # fmt: skip
    assert seen[4:] == [8, 9]


@pytest.mark.parametrize(
    "text", ["a [/] b", "a [bold] b", "[link=x]", ":smiley:", "(red:1.2)", "\x1b[2Jx", "\N{SNOWMAN}"]
)
def test_text_of_the_user_is_shown_as_it_is(text: str, capsys: Any) -> None:
    out = f"out {text}".replace("/", "_")
    assert run("--iterations", "0", "--prompt", text, "--out", out) == 0
    shown = capsys.readouterr().out
    assert text.replace("\x1b", "\\x1b") in shown and "\x1b" not in shown
    assert f"Saved {out}/guided-00.png".replace("\x1b", "\\x1b") in shown
    assert gf.Solution.load(out).prompts == (text,)
    assert gf.images.read_metadata(f"{out}/guided-00.png")["guideflow:prompt"] == text


def test_a_prompt_that_is_no_text_is_refused_before_the_work(capsys: Any) -> None:
    assert run("--prompt", "caf\udce9", "--out", "here") == 2
    assert r"Got 'caf\udce9' in `prompt`" in capsys.readouterr().err


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: Any) -> Any:
    """Install plugins that are only pretended."""
    (tmp_path / "plugins").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "plugins"))

    def install(name: str, body: str, head: str = "") -> None:
        source = f"{head}\nimport guideflow as gf\n@gf.hookimpl\ndef guideflow_losses():\n    {body}\n"
        fake_distribution(tmp_path / "plugins", f"{name} = plugin_{name}", source)
        registry.refresh()

    yield install
    monkeypatch.undo()
    registry.refresh()
    for name in [name for name in sys.modules if name.startswith("plugin_")]:
        del sys.modules[name]


def test_one_bad_plugin_harms_no_listing_and_is_named(plugins: Any, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("GUIDEFLOW_PLUGIN_TIMEOUT", "1")
    bad = {
        "leaves": ("return {}", "raise SystemExit(3)"),
        "number": ("return {3: dict}", ""),
        "markup": ("return {'[/]': dict}", ""),
        "summary": ("return {'summary': gf.Entry(dict, 3)}", ""),
        "nothing": ("return None or 3", ""),
        "download": ("return {'download': gf.Entry(dict, 'x', downloads=(gf.registry.Download(3, 4, 'x'),))}", ""),
        "listed": ("return {'listed': gf.Entry(dict, 'x', downloads=[])}", ""),
        "needs": ("return {'needs': gf.Entry(dict, 'x', needs=(object(),))}", ""),
        "facts": ("return {'facts': gf.Entry(dict, 'x', facts={'a': object()})}", ""),
        "hangs": ("return {}", "import time\nwhile True: time.sleep(0.1)"),
    }
    for name, (body, head) in bad.items():
        plugins(name, body, head)
    plugins("good", "return {'good': gf.Entry(dict, 'fine [/] :smiley:')}")
    assert main(["list"]) == 0
    captured = capsys.readouterr()
    assert "anchored" in captured.out and "fine [/] :smiley:" in captured.out
    told = [line for line in captured.err.splitlines() if "could not be loaded" in line]
    assert sorted(line.split("'")[1] for line in told) == sorted(bad)
    assert "no answer within 1 seconds" in captured.err
    assert main(["list", "--json"]) == 0 and len(json.loads(capsys.readouterr().out)["broken"]) == len(bad)
    assert main(["info", "good"]) == 0 and "fine [/] :smiley:" in capsys.readouterr().out
    with pytest.raises(gf.errors.UnknownPlugin, match="'hangs' of plugin_hangs"):
        gf.load_loss("gone")


@pytest.mark.parametrize(
    ("variables", "seen"),
    [
        ({}, {"one", "two"}),
        ({"GUIDEFLOW_DISABLE_PLUGINS": "one"}, {"two"}),
        ({"GUIDEFLOW_DISABLE_PLUGINS": " Plugin-Two, x"}, {"one"}),
        ({"GUIDEFLOW_DISABLE_PLUGINS": "all"}, set()),
        ({"GUIDEFLOW_PLUGINS": "two"}, {"two"}),
        ({"GUIDEFLOW_PLUGINS": "one,two", "GUIDEFLOW_DISABLE_PLUGINS": "two"}, {"one"}),
        ({"GUIDEFLOW_PLUGINS": "three"}, set()),
    ],
)
def test_plugins_are_let_in_or_not(variables: Any, seen: set[str], plugins: Any, monkeypatch: Any) -> None:
    for name in ("one", "two"):
        plugins(name, f"return {{'{name}': dict}}", f"import os; os.mkdir('{name}-imported')")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    registry.refresh()
    assert {offer.name for offer in registry.offers("loss")} & {"one", "two"} == seen
    assert {plugin.name for plugin in gf.plugins()} & {"one", "two"} == seen
    assert {path.name.partition("-")[0] for path in Path().glob("*-imported")} == seen, "others are not imported"
    assert registry.offers("solver") and registry.find("loss", "avatars-identity"), "guideflow's own are always there"


def test_a_factory_that_raises_or_leaves_is_named(plugins: Any) -> None:
    plugins("bad", "return {'raises': lambda: 1 / 0, 'leaves': lambda: exit(3)}")
    for name in ("raises", "leaves"):
        with pytest.raises(gf.errors.BrokenPlugin, match=f"The loss '{name}' of plugin_bad cannot be made with no opt"):
            gf.load_loss(name)


def test_the_manifest_tells_which_package_each_part_came_from(plugins: Any) -> None:
    plugins("mean", "return {'mean': lambda: lambda image: image.flatten(1).mean(1)}")
    assert run("--iterations", "0", "--solver", "momentum:solver=anchored", "--out", "here", loss="mean") == 0
    found = storage.read(Path("here"))[0]["versions"]["plugins"]
    own = f"guideflow {storage.versions()['guideflow']}"
    assert found == {"toy-mixture": own, "mean": "plugin_mean 0.1", "momentum": own, "anchored": own}


def test_an_empty_name_for_the_folder_is_refused(home: Path, capsys: Any) -> None:
    for more in (["--out", ""], ["--out="]):
        assert run(*more) == 2
        assert "Got an empty name for --out" in capsys.readouterr().err
    assert [one.name for one in home.iterdir()] == ["losses.py"]


def test_a_process_without_an_output_is_no_failure(monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["list", "solvers"]) == 0
