"""README, typed from top to bottom into a shell, in a fresh clone."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import guideflow as gf
from guideflow import registry
from guideflow.__main__ import main

ROOT = Path(__file__).parent.parent
COMMANDS = [
    re.sub(r"\s+#.*", "", line).strip()
    for block in re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    for line in re.sub(r"\\\n\s*", "", block).splitlines()
    if line.strip() and not line.startswith("#")
]
EXTRAS = re.findall(
    r"^(\w+) = \[",
    (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0],
    re.MULTILINE,
)
HEAVY = ("guideflow run", "guideflow doctor", "guideflow app", "guideflow sweep sweep.yaml")
QUICK = {"guideflow run --sampler": " --candidates 1 --iterations 1", "guideflow run --resume": " --iterations 2"}
QUICK |= {"guideflow app": " --help", "guideflow sweep sweep.yaml": " --dry-run"}
"""What is added to commands so that they take seconds: the last option of a name counts."""


def check_extras(command):
    """Check the extras of a `pip install -e '.[...]'`."""
    found = re.fullmatch(r"pip install -e '\.\[([\w,]+)\]'", command)
    assert found, command
    assert set(found[1].split(",")) <= set(EXTRAS)


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """What each command of README ended with, and what it said, all in one shell."""
    clone = tmp_path_factory.mktemp("clone") / "guideflow"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):  # what is committed next, not what was last
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).symlink_to(ROOT / name)
    (clone / ".venv").symlink_to(sys.prefix)
    for stamp in ("demo", "test", "docs"):
        assert f"$(VENV)/.installed-{stamp}:" in (ROOT / "Makefile").read_text()
    script = []
    for i, command in enumerate(COMMANDS):
        run = command
        if command.startswith("pip install") or command == "python3 -m venv .venv":
            run = ":"  # the environment is there; what these would install is checked by itself
        elif command.startswith("make "):
            run = f"make -n {command.removeprefix('make ')}"
        elif command.startswith(HEAVY):
            run = "command -v guideflow"  # it is found; what it does is looked at in this process, which has torch
        script.append(f"{run}\nprintf '\\n@@ {i} %s\\n' $?")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["bash"],
        input="\n".join(script),
        cwd=clone,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=500,
    )
    parts = re.split(r"\n@@ (\d+) (\d+)\n", done.stdout)
    return clone, {
        int(i): (int(code), said) for said, i, code in zip(parts[::3], parts[1::3], parts[2::3], strict=False)
    }


@pytest.fixture(scope="module")
def ended(typed):
    """The same with what takes long, run in this process in its order: later commands need what earlier ones left."""
    clone, found = typed[0], dict(typed[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(clone)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        for number, command in enumerate(COMMANDS):
            if command.startswith(HEAVY):
                code, said = found[number]
                assert said.strip().endswith("bin/guideflow") and code == 0, said
                more = next((more for start, more in QUICK.items() if command.startswith(start)), "")
                told = io.StringIO()
                with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
                    code = main(shlex.split(command + more)[1:])
                found[number] = code, told.getvalue()
    return found


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=COMMANDS)
def test_a_command_of_readme_works_where_readme_leaves_you(number, ended):
    command, (code, said) = COMMANDS[number], ended[number]
    if "--sampler perflow" in command:  # needs weights, and says how to get them
        assert code == 2 and "hf download" in said, said
        return
    assert code == 0, said
    if command.startswith("pip install -e"):
        check_extras(command)
    elif command.startswith("make "):
        assert {"make demo": "guideflow demo --out out", "make test": "-m pytest", "make docs": "mkdocs build"}[
            command
        ] in said
    elif command.startswith("guideflow doctor"):
        assert "All is well." in said and "!!" not in said


def test_what_readme_runs_leaves_pictures(typed, ended):
    folder = typed[0] / "ada"
    assert {"comparison.png", "plot.png", "guided-00.png", "guided-01.png"} <= {path.name for path in folder.iterdir()}


def test_every_extra_is_told_in_readme():
    table = (ROOT / "README.md").read_text().partition("| extra | for |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table.replace("`identity`", ""))) == set(EXTRAS) - {"all"}


def test_no_page_tells_to_type_what_is_not_there():
    from guideflow.cli.main import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for name in re.findall(r"^\s*guideflow (?:--\S+ )*([a-z][\w-]*)", block, re.MULTILINE):
                assert name in commands, f"{page.name}: guideflow {name}"
            for name in re.findall(r"^make (\w+)", block, re.MULTILINE):
                assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE), (
                    f"{page.name}: make {name}"
                )


def test_what_is_resumed_asks_for_more_iterations_than_are_done():
    """`QUICK` makes the run shorter than readers do, who leave its length to the preset."""
    preset = registry.find_preset("avatars-perflow", "avatars-identity", "auto")
    asked = re.search(r"run --resume .*--iterations (\d+)", (ROOT / "README.md").read_text())
    assert preset and asked and int(asked[1]) > gf.Auto(**preset.options).default_iterations
