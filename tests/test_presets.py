"""Presets: taken where a solver is named by text alone, for one sampler and one loss; recorded, and never guessed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import guideflow as gf
from guideflow import registry
from guideflow.__main__ import main
from guideflow.errors import InvalidArgument
from guideflow.registry.presets import Preset

ROOT = Path(__file__).parent.parent
NAME = "toy-mixture,avatars-identity,anchored"
PRESET = Preset("toy-mixture", "avatars-identity", "anchored", {"scale": 3.5}, 2, {"date": "2026-11-27"})


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder of presets with one in it."""
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / f"{NAME}.json").write_bytes(PRESET.written())
    monkeypatch.setenv("GUIDEFLOW_PRESETS", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture(scope="module")
def loss() -> Any:
    return gf.load_loss("avatars-identity", reference="ada")


def sampler(**options: Any) -> Any:
    return gf.load_sampler("toy-mixture", **{"size": 8, "num_steps": 2, **options})


def solve(loss: Any, made: Any = None, **options: Any) -> gf.Solution:
    given = {"prompt": "red disc", "solver": "anchored", "max_iterations": 2, "candidates": 1}
    return gf.solve(made or sampler(), loss, **{**given, **options})


def test_a_solver_that_is_named_takes_the_options_of_the_preset(loss: Any) -> None:
    found = solve(loss)
    assert found.settings.preset == NAME and f", preset {NAME})" in repr(found)
    assert found.configs["solver"]["options"]["scale"] == 3.5
    assert found.configs["preset"]["origin"] == "your own" and len(found.configs["preset"]["sha256"]) == 64
    by_hand = solve(loss, solver=gf.Anchored(scale=3.5))
    assert torch.equal(found.images, by_hand.images) and by_hand.settings.preset is None


def test_nothing_else_does(loss: Any) -> None:
    plain = solve(loss, solver=gf.Anchored())
    assert plain.settings.preset is None and "preset" not in plain.configs and "preset" not in repr(plain)
    others = {
        "switched off": solve(loss, preset=False),
        "an object": solve(loss, solver=gf.load_solver("anchored")),
        "another sampler": solve(loss, gf.load_sampler("toy-mixture", size=8, num_steps=3)),
        "a sum": solve(1.0 * loss),
        "another loss": solve(gf.load_loss("avatars-style", reference="ada")),
        "by hand": solve(lambda image: image.flatten(1).mean(1)),
        "another solver": solve(loss, solver="flowgrad"),
    }
    for what, found in others.items():
        assert found.settings.preset is None, what
    assert torch.equal(others["switched off"].images, plain.images) and gf.Anchored().scale == 1.0


def test_resume_and_verify_go_by_what_is_recorded(loss: Any, own: Path) -> None:
    whole = solve(loss, max_iterations=4)
    solve(loss, save_to="out")
    (own / f"{NAME}.json").write_bytes(Preset(*NAME.split(","), {"scale": 0.1}, 2).written())
    again = gf.resume("out", max_iterations=4, save_to="out", trust=True)
    assert again.settings.preset == NAME and again.configs["preset"] == whole.configs["preset"]
    (own / f"{NAME}.json").unlink()
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["settings"]["preset"] == NAME and manifest["configs"]["preset"]["date"] == "2026-11-27"
    assert manifest["configs"]["solver"]["options"]["scale"] == 3.5
    found = gf.verify("out", trust=True)
    assert found.same
    planned = solve(loss, max_iterations=4, preset=False, solver=gf.Anchored(scale=3.5))
    assert torch.equal(gf.Solution.load("out").images, planned.images)


def test_the_command_line_takes_it_says_so_and_leaves_it_out(capsys: Any) -> None:
    def run(*more: str) -> Any:
        typed = (
            "run --sampler toy-mixture:size=8,num_steps=2 --loss avatars-identity:reference=ada --iterations 1".split()
        )
        assert main([*typed, "--force", "--candidates", "1", "--json", "--out", "out", *more]) == 0
        return json.loads(capsys.readouterr().out)["preset"]

    assert run("--solver", "anchored") == NAME
    assert run("--solver", "anchored", "--no-preset") is None
    assert run("--solver", "anchored:scale=1") is None and run() is None
    assert main(["run", "--resume", "--out", "out", "--no-preset"]) == 2
    assert "--resume takes --no-preset from the saved run" in capsys.readouterr().err


def test_a_run_shows_the_options_that_it_took(without_plots: None, capsys: Any) -> None:
    typed = "run --sampler toy-mixture:size=8,num_steps=2 --loss avatars-identity:reference=ada --solver anchored"
    assert main([*typed.split(), "--iterations", "1", "--out", "shown"]) == 0
    assert f"Solved with the preset {NAME}: scale=3.5" in " ".join(capsys.readouterr().out.split())


def test_listings_show_presets(capsys: Any) -> None:
    assert main(["info", "toy-mixture"]) == 0
    assert f"{NAME}: scale=3.5 (your own, 2026-11-27)" in " ".join(capsys.readouterr().out.split())
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    for kind, name in (("samplers", "toy-mixture"), ("losses", "avatars-identity"), ("solvers", "anchored")):
        (one,) = [one for one in listed[kind] if one["name"] == name]
        assert NAME in [preset["name"] for preset in one["presets"]], kind


def test_the_own_one_comes_before_the_one_of_a_plugin(own: Path, tmp_path: Path, monkeypatch: Any) -> None:
    shipped = tmp_path / "shipped_toys" / "presets"
    shipped.mkdir(parents=True)
    Path("shipped_toys/__init__.py").write_text("raise RuntimeError('nothing is imported to find a preset')")
    (shipped / f"{NAME}.json").write_bytes(Preset(*NAME.split(","), {"scale": 2.0}, 2).written())
    plugin = registry.Plugin("toys", "shipped_toys", "guideflow-toys", "1.2")
    monkeypatch.setattr(registry.presets, "plugins", lambda: (plugin,))
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.find_preset(*NAME.split(",")).origin == "your own"  # type: ignore[union-attr]
    (own / f"{NAME}.json").unlink()
    found = registry.find_preset(*NAME.split(","))
    assert found is not None and (found.origin, found.options) == ("guideflow-toys 1.2", {"scale": 2.0})
    assert found.typed == "anchored:scale=2.0"


DAMAGED = {
    "not json": ("{", "Expecting property name"),
    "a list": ("[]", "format None"),
    "of later": (PRESET.written().decode().replace('"preset": 1', '"preset": 2'), "format 2"),
    "no options": (PRESET.written().decode().replace("{\n  \"scale\": 3.5\n }", "3"), "its field 'options' is 3"),
    "another one": (PRESET.written().decode().replace("toy-mixture", "toy-linear"), "it is for toy-linear,"),
    "no option": (PRESET.written().decode().replace("scale", "scail"), "has no option 'scail'. Did you mean 'scale'"),
    "a value": (PRESET.written().decode().replace("3.5", "-3.5"), "Got scale=-3.5"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_one_is_named_with_what_to_do(kind: str, own: Path, loss: Any) -> None:
    text, why = DAMAGED[kind]
    (own / f"{NAME}.json").write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        solve(loss)
    said = str(caught.value)
    assert NAME in said and why in said and said.endswith("`preset=False`."), said
    assert caught.value.typed.endswith("type --no-preset.") and "\n" not in said
    assert solve(loss, preset=False).settings.preset is None


def test_damaged_ones_harm_no_listing(own: Path, capsys: Any) -> None:
    (own / f"{NAME}.json").write_text("{")
    assert main(["list", "samplers"]) == 0
    assert NAME in capsys.readouterr().err
    assert main(["list", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["broken"]) == [str(own / f"{NAME}.json")]


def test_a_folder_that_is_not_there_is_told_if_it_was_named(loss: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("GUIDEFLOW_PRESETS", "nowhere")
    with pytest.raises(InvalidArgument, match="GUIDEFLOW_PRESETS='nowhere', which is no folder"):
        solve(loss)
    monkeypatch.delenv("GUIDEFLOW_PRESETS")
    monkeypatch.setenv("XDG_CONFIG_HOME", "nowhere")
    assert solve(loss).settings.preset is None


def test_no_preset_runs_a_file(own: Path, loss: Any) -> None:
    Path("rule.py").write_text("raise SystemExit('run')\n")
    inner = {"solver": {"name": "rule.py:Rule", "options": {}}}
    name = "toy-mixture,avatars-identity,momentum"
    (own / f"{name}.json").write_bytes(Preset(*name.split(","), inner, 2).written())
    with pytest.raises(InvalidArgument, match=r"no solver named 'rule.py:Rule'"):
        solve(loss, solver="momentum")
    inner = {"solver": {"name": "anchored", "options": {"scale": 2.0}}, "beta": 0.5}
    (own / f"{name}.json").write_bytes(Preset(*name.split(","), inner, 2).written())
    assert solve(loss, solver="momentum").solver == gf.Momentum(gf.Anchored(scale=2.0), beta=0.5)


SHIPPED = sorted((ROOT / "samplers" / "guideflow_avatars" / "presets").glob("*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_is_shipped_says_how_it_was_found_and_is_better_on_other_people(path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("GUIDEFLOW_PRESETS")
    preset = registry.find_preset(*path.stem.split(","))
    assert preset is not None and preset.origin.startswith("guideflow ")
    registry.load_solver(preset.solver, **preset.options)
    found = preset.found
    for name in ("command", "date", "machine", "versions", "weights", "rule", "note"):
        assert found[name], name
    for jobs in (found[part] for part in ("jobs", "check") if part in found):
        metric, cost = (jobs["objectives"][name] for name in ("avatars-identity-similarity", "denoise-error"))
        cleaner = metric["preset"] > metric["default"] - 0.01 and cost["preset"] < cost["default"]
        assert (metric["preset"] > metric["default"] or cleaner) and jobs["count"] >= 4
    assert found["check"]["count"] >= 6
    if "jobs" in found:
        assert not {*found["jobs"]["references"]} & {*found["check"]["references"]}
    assert str(ROOT) not in path.read_text()


def test_passes_are_for_those_who_leave_the_iterations_to_the_solver(own: Path, loss: Any) -> None:
    name = f"{NAME.rpartition(',')[0]},auto"
    (own / f"{name}.json").write_bytes(Preset(*name.split(","), {"passes": True}, 2).written())
    made = sampler()
    free = gf.solve(made, loss)
    assert free.settings.preset == name and free.solver == gf.Auto(passes=True) and free.settings.max_iterations == 3
    told = gf.solve(made, loss, max_iterations=2)
    assert told.settings.preset is None and told.solver == gf.Auto() and "preset" not in told.configs
    assert gf.resume(free, max_iterations=4).solver == gf.Auto(passes=True)
