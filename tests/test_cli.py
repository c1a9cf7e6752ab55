"""The command line: what it shows, what it writes, and how it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import guideflow as gf
from guideflow import images, registry
from guideflow.__main__ import main
from guideflow.cli import reading
from guideflow.errors import InvalidArgument
from guideflow.testing import fake_distribution

pytestmark = pytest.mark.usefixtures("without_plots")

SOURCE = '''
import guideflow as gf
from guideflow import images

class Match(gf.Loss):
    """Distance to a reference picture.

    Arguments:
        reference: Path of a picture.
        gain: Factor,
            on two lines.
    """

    def __init__(self, reference: str, *, gain: float = 1.0):
        self.target = images.read_image(reference, size=32)
        self.gain = gain * 1.0

    def __call__(self, image):
        return self.gain * (image - self.target).square().flatten(1).mean(1)

class Slow(Match):
    """Takes its time."""

    def __call__(self, image):
        import pathlib, time
        pathlib.Path("started").touch()
        time.sleep(0.05)
        return super().__call__(image)

@gf.hookimpl
def guideflow_losses():
    match = gf.Entry(Match, "Distance to a picture", extra="style", licence="MIT", needs=("a picture",))
    return {"match": match, "slow": Slow}
'''


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working folder with a reference picture, and an installed plugin with a loss."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    fake_distribution(plugins, "match = plugin_match", SOURCE)
    monkeypatch.syspath_prepend(str(plugins))
    monkeypatch.setenv("PYTHONPATH", str(plugins))
    monkeypatch.setenv("COLUMNS", "120")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    images.save_image("ref.png", torch.full((1, 3, 32, 32), 0.25))
    registry.refresh()
    yield work
    registry.refresh()
    sys.modules.pop("plugin_match", None)


RUN = ["run", "--sampler", "toy-mixture", "--loss", "match:reference=ref.png", "--iterations", "3"]


def refused(capsys, arguments):
    """The one line on standard error with which a command was refused."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" or captured.out.isspace()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("guideflow: "), captured.err
    assert "Traceback" not in captured.err
    return lines[0]


def test_run_saves_what_solution_save_writes_and_says_where(home, capsys):
    arguments = [*RUN, "--prompt", "red disc", "--prompt", "green", "--seed", "4", "--seed", "5", "--out", "here"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "guided-00.png to guided-01.png" in captured.out and "max iterations" in captured.out
    assert "red disc" in captured.out and "--resume --out here --iterations 15" in captured.out
    assert not captured.err, "a bar is for terminals"
    solution = gf.Solution.load("here")
    assert solution.seeds == (4, 5) and solution.prompts == ("red disc", "green")
    assert solution.history["loss"].shape == (4, 2)
    assert images.read_metadata("here/guided-00.png")["guideflow:prompt"] == "red disc"
    assert solution.configs["sampler"] == {"name": "toy-mixture", "options": {}}


def test_run_equals_the_same_solve_in_python(home):
    assert main([*RUN, "--seed", "4", "--solver", "anchored:scale=0.5", "--out", "here"]) == 0
    loss = gf.load_loss("match", reference="ref.png")
    solution = gf.solve(gf.load_sampler("toy-mixture"), loss, seed=4, solver=gf.Anchored(scale=0.5), max_iterations=3)
    assert torch.equal(gf.Solution.load("here").images, solution.images)


def test_every_option_of_run_reaches_the_solve(home):
    options = [
        "--prompt",
        "red disc",
        "--negative-prompt",
        "green",
        "--negative-prompt",
        "blue",
        "--gradient-mode",
        "windowed",
        "--candidates",
        "3",
    ]
    assert main([*RUN, *options, "--seed", "7", "--seed", "8", "--out", "here"]) == 0
    settings = gf.Solution.load("here").settings
    assert settings.prompts == ("red disc", "red disc") and settings.seeds == (7, 8)
    assert settings.negative_prompts == ("green", "blue")
    assert settings.candidates == 3
    assert settings.gradient_mode == "windowed" and settings.max_iterations == 3


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("momentum:solver=anchored,beta=0.8", gf.Momentum(gf.Anchored(), beta=0.8)),
        ("momentum:solver=anchored:scale=2", gf.Momentum(gf.Anchored(scale=2))),
        ("momentum:solver=(anchored:scale=2,anchor=fixed),beta=0.8", gf.Momentum(gf.Anchored(2, "fixed"), beta=0.8)),
        ("polyak:solver=(momentum:solver=(flowgrad:scale=2,decay=0.1),beta=0.8),cap=3", None),
    ],
)
def test_a_solver_inside_a_solver_is_named(typed, expected):
    expected = expected or gf.Polyak(gf.Momentum(gf.FlowGrad(scale=2, decay=0.1), beta=0.8), cap=3)
    assert reading.load("solver", typed) == expected


def test_a_mistake_inside_a_solver_inside_a_solver_is_told(home, capsys):
    assert "Did you mean 'anchored'" in refused(capsys, [*RUN, "--solver", "momentum:solver=anchord"])
    assert "has no option 'scal'" in refused(capsys, [*RUN, "--solver", "momentum:solver=anchored:scal=1"])


def test_losses_are_weighted_and_added(home):
    two = ["--loss", "0.5*match:reference=ref.png,gain=3", "--out", "here"]
    assert main([*RUN, *two]) == 0
    history = gf.Solution.load("here").history
    names = [name for name in history if name.startswith("match")]
    assert len(names) == 2
    assert torch.allclose(history["loss"], history[names[0]] + 0.5 * history[names[1]])


def test_resume_goes_on_bit_for_bit(home, capsys):
    flowgrad = [*RUN, "--solver", "flowgrad"]  # takes the same steps however many are planned
    assert main([*flowgrad, "--out", "whole", "--iterations", "6"]) == 0
    assert main([*flowgrad, "--out", "parts"]) == 0
    assert main(["run", "--resume", "--trust", "--out", "parts", "--iterations", "6"]) == 0
    assert torch.equal(gf.Solution.load("whole").images, gf.Solution.load("parts").images)
    capsys.readouterr()
    assert "6 iterations are done already. To go on, type --iterations 18" in refused(
        capsys, ["run", "--resume", "--out", "parts"]
    )
    assert "takes --sampler from the saved run" in refused(capsys, [*RUN[:-2], "--resume", "--out", "parts"])
    for other in ("--solver", "--negative-prompt"):
        assert f"takes {other} from" in refused(capsys, ["run", "--resume", "--out", "parts", other, "anchored"])
    assert "No solution is saved in nowhere" in refused(capsys, ["run", "--resume", "--out", "nowhere"])


def test_a_folder_of_another_run_is_refused_before_the_work(home, capsys):
    assert main([*RUN, "--out", "here"]) == 0
    before = Path("here/manifest.json").read_text()
    capsys.readouterr()
    line = refused(capsys, [*RUN, "--out", "here"])
    assert "here holds another run" in line and "--resume --out here" in line
    assert Path("here/manifest.json").read_text() == before
    Path("file").write_text("")
    assert "file is a file" in refused(capsys, [*RUN, "--out", "file"])


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(home, capsys, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "no permission for" in refused(capsys, [*RUN, "--out", "deep/er"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--sampler", "toy-mixtur"], "Did you mean 'toy-mixture'"),
        (["--loss", "mach:reference=ref.png"], "Did you mean 'match'?"),
        (["--solver", "anchord"], "Did you mean 'anchored'"),
        (["--solver", "anchored:scal=1"], "has no option 'scal'. Did you mean 'scale'?"),
        (["--solver", "anchored:scale=much"], "'much'"),
        (["--solver", "anchored:scale=-1"], "scale=-1"),
        (["--solver", "anchored:scale=nan"], "scale=nan"),
        (["--solver", "anchored:much"], "Expected key=value"),
        (["--sampler", "toy-mixture:size=tiny"], "'toy-mixture' got size='tiny'. Expected a whole number."),
        (["--loss", "match"], "needs 'reference'"),
        (["--loss", "lots*match:reference=ref.png"], "Expected a number before the *"),
        (["--loss", "match:reference=ref.png,gain=x"], "'match' got gain='x'. Expected a number."),
        (["--loss", "match:reference=missing.png"], "There is no file missing.png"),
        (["--loss", "match:reference=text.png"], "text.png is not an image"),
        (["--loss", "match:reference=cut.png"], "cut.png is damaged or cut short"),
        (["--loss", "match:reference=empty.png"], "empty.png is empty"),
        (["--seed", "one"], "Invalid value for '--seed'"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--iterations", "-1"], "Invalid value for '--iterations'"),
        (["--iterations", "1.5"], "Invalid value for '--iterations'"),
        (["--prompt", "a", "--prompt", "b", "--seed", "1", "--seed", "2", "--seed", "3"], "lists of different lengths"),
        (["--colour", "red"], "No such option: --colour"),
        (["--out", "/proc/nowhere/out"], "/proc/nowhere"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(home, capsys, change, says):
    Path("text.png").write_text("hello")
    Path("empty.png").write_bytes(b"")
    images.save_image("noise.png", torch.rand(1, 3, 64, 64))
    Path("cut.png").write_bytes(Path("noise.png").read_bytes()[:2000])
    replaced = [part for part in RUN]
    if change[0] in replaced:
        del replaced[replaced.index(change[0]) : replaced.index(change[0]) + 2]
    before = set(Path().iterdir())
    assert main([*replaced, *change]) == 2
    error = capsys.readouterr().err
    assert says in error.splitlines()[-1], error
    assert "Traceback" not in error
    assert set(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("missing", "says"), [(["run"], "Give --sampler"), (["run", "--sampler", "toy-mixture"], "--loss")]
)
def test_a_run_needs_a_sampler_and_a_loss(home, capsys, missing, says):
    assert says in refused(capsys, missing)


def test_unknown_commands_and_names_are_refused(home, capsys):
    assert "No such command 'rum'" in refused(capsys, ["rum"])
    assert "Type samplers, losses, solvers or metrics" in refused(capsys, ["list", "loss"])
    assert "Did you mean 'anchored'" in refused(capsys, ["info", "anchoed"])


def start(arguments):
    """A command in a process of its own, as from a terminal."""
    command = [sys.executable, "-m", "guideflow", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
        preexec_fn=listen,
    )


def listen():
    """Heed what a shell's background jobs and nohup ignore and hand down, as a command at a terminal does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("sent", "code"), [([signal.SIGINT] * 5, 130), ([signal.SIGTERM] * 2, 143), ([signal.SIGHUP], 129)], ids=str
)
def test_signals_keep_what_was_made_and_tell_by_the_exit_code(home, sent, code):
    endless = [
        "run",
        "--sampler",
        "toy-mixture",
        "--loss",
        "slow:reference=ref.png",
        "--candidates",
        "1",
        "--iterations",
        "100000",
        "--out",
        "here",
    ]
    with start(endless) as process:
        deadline = time.monotonic() + 120
        while not Path("started").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        for one in sent:
            process.send_signal(one)
            time.sleep(0.02)
        try:
            out, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code, error
    assert "Traceback" not in error
    assert "interrupted" in out and "--resume --out here --iterations 100000" in out
    done = gf.Solution.load("here").state.iteration
    assert main(["run", "--resume", "--trust", "--out", "here", "--iterations", str(done + 1)]) == 0


def test_control_c_before_anything_is_made_exits_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("guideflow.cli.listing.show_list", interrupted)
    assert main(["list"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_list_shows_names_and_summaries(home, capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in ("toy-mixture", "match", "Distance to a picture", "anchored", "noise-descent"):
        assert name in out
    assert main(["list", "solvers"]) == 0
    out = capsys.readouterr().out
    assert "flowgrad" in out and "toy-mixture" not in out


def test_list_reports_broken_plugins_and_goes_on(home, capsys, tmp_path):
    fake_distribution(tmp_path / "plugins", "bad = plugin_bad", "raise RuntimeError('of its own')")
    registry.refresh()
    assert main(["list"]) == 0
    captured = capsys.readouterr()
    assert "anchored" in captured.out and "RuntimeError: of its own" in captured.err


def test_info_shows_everything_about_a_name(home, capsys):
    assert main(["info", "match"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in (
        "match, a loss of plugin_match 0.1",
        "Distance to a picture",
        "licence MIT",
        "needs a picture",
        "pip install 'guideflow[style]'",
        "reference str = required Path of a picture.",
        "gain float = 1.0 Factor, on two lines.",
        "guideflow run --loss match:reference=...",
    ):
        assert text in out, out


def test_help_and_version(capsys):
    for arguments in (["--help"], ["run", "--help"], []):
        assert main(arguments) == 0
        assert "Usage: guideflow" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("guideflow ")


def factory(path: str, *, count: int = 1, either: str | int = 0, anything=None): ...


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("count=3", {"count": 3}),
        ("path=123", {"path": "123"}),
        ("either=123,anything=0.5", {"either": 123, "anything": 0.5}),
        ("path=a,b.png,count=-2", {"path": "a,b.png", "count": -2}),
        ("anything=true, count = 1e3", {"anything": True, "count": 1000.0}),
        ("anything=[1, 2],count=1", {"anything": [1, 2], "count": 1}),
        ("path=C:/a=b.png", {"path": "C:/a=b.png"}),
        ("anything=none", {"anything": None}),
        ("anything=[1", {"anything": "[1"}),
    ],
)
def test_options_are_read_as_typed(text, expected):
    assert reading.parse_options(text, factory) == expected


def test_options_must_begin_with_a_key():
    with pytest.raises(InvalidArgument, match="Expected key=value"):
        reading.parse_options("3", factory)


def test_the_manifest_is_plain_json(home):
    assert main([*RUN, "--out", "here"]) == 0
    solver = json.loads(Path("here/manifest.json").read_text())["configs"]["solver"]
    assert solver == {
        "name": "auto",
        "options": {"scale": 1.0, "iterations": None, "passes": False, "preview": False, "polish": 0.0, "noises": 16},
    }
