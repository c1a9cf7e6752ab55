"""What the command line tells people, shells and programs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from guideflow.__main__ import main
from guideflow.cli import completion
from guideflow.cli.base import PANELS
from guideflow.cli.main import app
from guideflow.cli.options import RunCommand

COMMANDS = [str(command.name or command.callback.__name__) for command in app.registered_commands if command.callback]
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f\x80-\x9f]")


@pytest.fixture(autouse=True)
def narrow(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_help_has_examples_in_80_columns_without_control_characters(command: str, capsys: Any) -> None:
    assert main([*command.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^ *Examples?: *$", said, re.MULTILINE), said
    assert f"\n   guideflow {command}".rstrip() in said or command == "completion"
    assert not CONTROL.search(said) and max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize("command", [("list",), ("info", "avatars-perflow"), ("info", "identity"), ("list", "losses")])
def test_listings_fit_80_columns_and_hold_no_control_characters(command: tuple[str, ...], capsys: Any) -> None:
    assert main(list(command)) == 0
    said = capsys.readouterr().out
    assert not CONTROL.search(said) and max(map(len, said.splitlines())) <= 80


def test_programs_get_json(capsys: Any) -> None:
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    found = {one["name"]: one for one in listed["samplers"]}
    assert found["perflow"]["weights"] == "to download" and found["avatars-perflow"]["domain"] == "cartoons"
    assert {"samplers", "losses", "solvers", "broken"} <= listed.keys() and listed["broken"] == {}
    assert main(["info", "avatars-identity", "--json"]) == 0
    (about,) = json.loads(capsys.readouterr().out)
    assert about["bundled"][0] == "ada" and about["options"][0]["name"] == "reference"
    assert about["options"][0]["default"] is None and about["options"][1]["default"] == "None"


def test_info_tells_the_words_of_the_avatars(capsys: Any) -> None:
    assert main(["info", "avatars-turbo"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "clothes: dress, jacket, shirt, t-shirt, turtleneck" in said and "pictures cartoons only" in said


def test_names_and_options_are_completed() -> None:
    assert completion.samplers("avatars-p") == ["avatars-pcm", "avatars-perflow"]
    assert completion.losses("0.5*avatars-id") == ["0.5*avatars-identity"]
    assert completion.losses("identity:reference=a.png,ba") == ["identity:reference=a.png,backend="]
    assert "identity:reference=" in completion.losses("identity:")
    assert "identity:reference=a,reference=" not in completion.losses("identity:reference=a,")
    assert completion.losses("identity:reference=a") == [] and completion.solvers("nothing:") == []
    assert completion.solvers("momentum:b") == ["momentum:beta="]
    assert completion.kinds("so") == ["solvers"] and completion.written("sam") == ["sampler"]
    assert "anchored" in completion.names("anch")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("guideflow run --sampler avatars-per", "avatars-perflow"),
        ("guideflow run --loss identity:ba", "backend="),  # bash completes what comes after the last colon
        ("guideflow inf", "info"),
        ("guideflow run --solver momentum:beta=0.5,sol", "0.5,solver="),
    ],
)
def test_bash_completes(line: str, found: str) -> None:
    call = f"COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; _guideflow_completion guideflow; echo ${{COMPREPLY[*]}}"
    script = f"{completion.script('bash')}\ncompopt() {{ :; }}\n{call}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == [found], done.stderr


def test_other_shells_have_a_script(capsys: Any) -> None:
    for shell, word in (("zsh", "#compdef guideflow"), ("fish", "complete"), ("bash", "complete -o default")):
        assert main(["completion", shell]) == 0
        assert word in capsys.readouterr().out
    assert main(["completion", "csh"]) == 2
    assert "Expected one of: 'bash', 'zsh'" in capsys.readouterr().err


def test_the_doctor_reports_to_programs(monkeypatch: Any, capsys: Any) -> None:
    from guideflow.cli import doctor

    monkeypatch.setattr(doctor, "_try_avatars", lambda: "tried by the tests of README")
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["well"] and list(report)[:6] == ["versions", "machine", "caches", "extras", "plugins", "self-test"]
    assert all(one["ok"] for one in report["self-test"] + report["plugins"])


def test_the_doctor_names_what_is_broken_and_the_cure(monkeypatch: Any, capsys: Any) -> None:
    from guideflow import registry
    from guideflow.cli import doctor

    def fails() -> str:
        raise RuntimeError("it does not")

    monkeypatch.setattr(doctor, "_try_core", fails)
    monkeypatch.setattr(doctor, "_try_avatars", fails)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "open_clip" else object())
    plugin = next(one for one in registry.plugins() if one.name == "clip")
    monkeypatch.setattr(registry, "broken", lambda: {plugin: "ImportError: no"})
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "!! core           RuntimeError: it does not" in said and "3 to mend." in said
    assert "-- style          without open_clip" in said and "type: pip install 'guideflow[style]'" in said
    assert "!! clip           guideflow 0.1.0: ImportError: no" in said and "pip install --upgrade" in said


def test_an_error_that_should_not_be_is_told_in_a_line(monkeypatch: Any, capsys: Any) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("of\nits own")

    monkeypatch.setattr("guideflow.cli.listing.show_list", broken)
    assert main(["list"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("guideflow: This should not happen: RuntimeError: of its own (") and said.count("\n") == 1
    assert "--traceback for a report" in said
    assert main(["list", "--traceback"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_reader_that_has_gone_is_no_error(monkeypatch: Any, capsys: Any) -> None:
    def gone(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("guideflow.cli.listing.show_list", gone)
    assert main(["list"]) == 141 and capsys.readouterr().err == ""


def test_missing_weights_are_told_in_lines_that_can_be_read(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    Path("grey.py").write_text("def grey(image):\n    return image.flatten(1).mean(1)\n")
    assert main(["run", "--sampler", "perflow", "--loss", "grey.py:grey"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= 220 and len(lines) > 4
    command = " ".join(line.rstrip("\\").strip() for line in lines if line.startswith("  "))
    assert command.startswith("hf download hansyan/perflow-sd15-dreamshaper --include '*.json'")
    assert command.endswith("--local-dir perflow-sd15-dreamshaper")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_help_is_plain_to_read(command: str, capsys: Any) -> None:
    assert main([*command.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert "<bool>" not in said and "list[" not in said and "…" not in said and "[default: (" not in said
    assert not re.search(r"\[x[<>]|default: *│", said), said  # no ranges as code, no default by itself on its line


def test_commands_and_options_stand_under_headings(capsys: Any) -> None:
    listed = [name for names in PANELS.values() for name in names]
    assert set(COMMANDS) <= set(listed)
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"─ {heading} ─" in said for heading in PANELS)
    assert all(re.search(rf"^│ {name} +\w.*\w\. +│$", said, re.MULTILINE) for name in COMMANDS), "a line for each"
    assert main(["run", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"─ {heading} ─" in said for heading in RunCommand.panels)
    assert re.findall(r"│ (--[\w-]+)", said.partition("─ And more ─")[2]) == ["--resume", "--trust", "--help"]


def test_the_doctor_looks_at_every_extra_and_shows_where_its_test_failed(monkeypatch: Any, capsys: Any) -> None:
    from importlib.metadata import metadata

    from guideflow.cli import doctor

    assert set(doctor._MODULES) == set(metadata("guideflow").get_all("Provides-Extra") or ()) - {"all", "docs", "test"}

    def fails() -> str:
        raise RuntimeError("it does not")

    monkeypatch.setattr(doctor, "_try_core", fails)
    monkeypatch.setattr(doctor, "_try_avatars", lambda: "well")
    assert main(["doctor", "--traceback"]) == 1
    error = capsys.readouterr().err
    assert "in fails" in error and error.endswith("The self-test of core failed: RuntimeError: it does not\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--iterations", "many"], "'--iterations': 'many' is no whole number from 0 on."),
        (["--candidates", "0"], "'--candidates': '0' is no whole number from 1 on."),
        (["--target-loss", "nan"], "'--target-loss': 'nan' is no number."),
        (["--loss", "avatars-identity:reference=ada,reference=ben"], "Got reference twice in"),
        (["--solver", "momentum:solver=(anchored:scale=2"], "Expected brackets on both sides"),
        (["--strength", "0.5"], "Got --strength without a picture to begin at. Give --start photo.png"),
        (["--sampler", "toy-mixtur"], "'toy-linear'? `guideflow list samplers` shows all"),
    ],
)
def test_what_is_wrong_is_told_as_it_was_typed(arguments: list[str], says: str, capsys: Any) -> None:
    given = {"--sampler": "toy-mixture:size=8", "--loss": "avatars-identity:reference=ada"}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert main(["run", *(word for pair in given.items() for word in pair)]) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.splitlines()) == 1, error


@pytest.mark.parametrize("command", ["list", "run --help"])
def test_nobody_reads_what_a_command_says(command: str) -> None:
    words = f"{sys.executable} -m guideflow {command} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("141\n", "")
