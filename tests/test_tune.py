"""`guideflow tune`: one seed makes the same trials, whatever is killed; judges are held out; presets are better."""

import csv
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import guideflow as gf
from guideflow import registry
from guideflow.__main__ import main
from guideflow.errors import FolderInUse, InvalidArgument
from guideflow.sweep import read
from guideflow.tune import Outcome, Point, Tune, tune
from guideflow.tune.example import EXAMPLE
from guideflow.tune.reading import parse_tune
from guideflow.tune.results import Judge, Points
from processes import ended, forked, killed

LOSSES = """
def bright(image, target: float = 0.5):
    return (image.flatten(1).mean(1) - target).square()
"""
JUDGES = """
import guideflow as gf
from guideflow.metrics import measured

class Moved(gf.Metric):
    name = "moved"
    def __call__(self, cases):
        return [measured(float((case.image - case.unguided).square().mean().sqrt())) for case in cases]

class Rough(gf.Metric):
    name, better = "rough", "lower"
    def __call__(self, cases):
        return [measured(float(case.image.diff(dim=-1).abs().mean())) for case in cases]

class Still(Moved):
    better = "lower"

class Guide(gf.Metric):
    def __init__(self):
        self.loss = gf.load_loss("avatars-identity", reference="ada")
    def __call__(self, cases):
        return [measured(-float(self.loss(case.image[None]))) for case in cases]
"""
TRIAL = '"op_code":4'  # of a line of the journal that is a trial
HEAD = "sampler: {name: toy-mixture, options: {size: 8, num_steps: 2}}\n"
SEARCH = """\
loss: losses.py:bright
solver: anchored
search:
  scale: {low: 0.5, high: 8, log: true}
  anchor: [moving, fixed]
objectives: [judges.py:Moved, judges.py:Rough]
at_most: 4
trials: 4
solve: {max_iterations: 1}
prompts: [red disc]
seeds: [0, 1]
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(os, "fsync", lambda file: None)  # what is killed needs no wait for the disk
    monkeypatch.setenv("GUIDEFLOW_PRESETS", str(tmp_path))
    Path("losses.py").write_text(LOSSES)
    Path("judges.py").write_text(JUDGES)
    return tmp_path


def spec(text: str = SEARCH, **more: Any) -> Tune:
    made = parse_tune(HEAD + text)
    return made.model_copy(update=more)


def trials(found: Outcome) -> list[tuple[Any, ...]]:
    return [(one.number, dict(one.options), one.metric, one.cost) for one in found.found.points]


@pytest.mark.slow
def test_the_same_seed_makes_the_same_trials(home: Path) -> None:
    found = tune(spec(trials=7), "one")
    assert [one.number for one in found.found.points] == list(range(8))
    assert trials(tune(spec(trials=3), "two")) == trials(found)[:4], "whatever their number"
    assert trials(tune(spec(trials=7), "two")) == trials(found), "and more of them go on alike"
    before = {path: path.stat().st_mtime_ns for path in Path("two/trials").rglob("*.png")}
    assert trials(tune(spec(trials=7), "two")) == trials(found)
    assert before == {path: path.stat().st_mtime_ns for path in Path("two/trials").rglob("*.png")}
    assert trials(tune(spec(trials=1, seed=1), "three"))[1] != trials(found)[1]
    options = [one.options for one in found.found.points]
    assert options[0] == {} and len({str(one) for one in options}) > 5
    assert all(0.5 <= one["scale"] <= 8 and one["anchor"] in ("moving", "fixed") for one in options[1:])


def test_the_default_solver_is_searched_as_any_other() -> None:
    text = (
        SEARCH.replace("anchored", "auto").replace("  anchor: [moving, fixed]\n", "").replace("trials: 4", "trials: 1")
    )
    found = tune(spec(text), "out").found
    assert [one.options.keys() for one in found.points] == [{}.keys(), {"scale": 1}.keys()]
    assert all(one.metric is not None for one in found.points)


def test_the_folder_has_a_table_a_plot_and_a_sweep_that_can_be_evaluated() -> None:
    found = tune(spec(), "out").found
    with open("out/trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == [0, 1, 2, 3, 4]
    assert [float(row["judges.py:Moved"]) for row in rows] == pytest.approx([one.metric for one in found.points], 1e-4)
    assert [row["trial"] for row in rows if row["chosen"]] == [str(found.chosen and found.chosen.number)]
    assert {row["trial"] for row in rows if row["front"]} == {str(one.number) for one in found.points if one.front}
    assert gf.images.read_image("out/front.png").shape[1] == 3
    assert len(set(read("out/trials", ["config"])["config"].to_pylist())) == 5
    assert not list(Path("out").glob("*.json.part")) and json.loads(Path("out/tune.json").read_text())["tune"] == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking beside threads
def test_killed_again_and_again_a_search_ends_as_if_it_had_not_been() -> None:
    began = time.monotonic()
    whole = trials(tune(spec(trials=6), "whole"))
    took = time.monotonic() - began

    def compare() -> None:
        assert trials(tune(spec(trials=6), "out")) == whole
        jobs = [read(f"{folder}/trials", ["job", "status"]).to_pylist() for folder in ("whole", "out")]
        assert len(jobs[0]) == len(jobs[1]) and len({row["job"] for row in jobs[1]}) == len(jobs[1])
        assert Path("out/study.journal").read_text().count(TRIAL) == 7, "each trial is written once"
        shutil.rmtree("out")

    killed(lambda: tune(spec(trials=6), "out") and 0, 8, took, compare)
    compare()


def test_a_line_that_was_not_finished_is_taken_off_and_a_damaged_one_is_named() -> None:
    whole = trials(tune(spec(trials=2), "out"))
    journal = Path("out/study.journal")
    good = journal.read_bytes()
    cut = good.rstrip(b"\n").rfind(b"\n") + 20  # in the middle of the last trial
    journal.write_bytes(good[:cut])
    assert trials(tune(spec(trials=2), "out")) == whole and journal.read_text().count(TRIAL) == 3
    journal.write_bytes(good.replace(b"\n", b"\n{\n", 1))
    with pytest.raises(InvalidArgument, match=r"out/study.journal is damaged .*remove it: the trials are"):
        tune(spec(trials=2), "out")
    journal.write_bytes(good.replace(b'"intermediate_values":{}', b'"intermediate_values":3', 1))
    with pytest.raises(InvalidArgument, match=r"out/study.journal is damaged"):
        tune(spec(trials=2), "out")
    journal.unlink()
    about = Path("out/tune.json")
    told = about.read_bytes()
    for text in ("[" * 100_000, "[]", *(json.dumps({"tune": 1, "spec": one}) for one in (None, 3, "x", [], [[]]))):
        about.write_text(text)
        with pytest.raises(InvalidArgument, match=r"out/tune.json cannot be read"):
            tune(spec(trials=2), "out")
    about.write_bytes(told)
    assert trials(tune(spec(trials=2), "out")) == whole


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ctrl_c_leaves_a_folder_that_the_same_command_goes_on_with(capfd: Any) -> None:
    Path("tune.yaml").write_text(HEAD + SEARCH.replace("trials: 4", "trials: 200"))

    def work() -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return main(["tune", "tune.yaml", "--out", "out"])

    process = forked(work)
    until = time.monotonic() + 60
    while not (journal := Path("out/study.journal")).exists() or TRIAL not in journal.read_text():
        assert time.monotonic() < until, capfd.readouterr().err
        time.sleep(0.05)
    os.kill(process, signal.SIGINT)
    assert ended(process) == 130, capfd.readouterr().err
    told = capfd.readouterr().err.splitlines()[-1]
    assert told.startswith("guideflow: Interrupted: ") and "Go on with: guideflow tune tune.yaml --out out" in told
    Path("tune.yaml").write_text(HEAD + SEARCH.replace("trials: 4", "trials: 2"))
    assert main(["tune", "tune.yaml", "--out", "out"]) == 0
    said = capfd.readouterr()
    assert "trial 2 of 2: scale=" in said.err and "There is no preset. A preset goes by names" in said.out


def test_another_search_in_the_folder_is_refused() -> None:
    tune(spec(trials=1), "out")
    for text, name in (("high: 8", "search"), ("seeds: [0, 1]", "seeds"), ("max_iterations: 1", "solve")):
        with pytest.raises(FolderInUse, match=f"out holds a search with another `{name}`"):
            tune(spec(SEARCH.replace(text, text.replace("8", "9").replace("1", "2"))), "out")
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    with pytest.raises(FolderInUse, match=r"mine holds other files, such as notes.txt"):
        tune(spec(), "mine")
    with pytest.raises(InvalidArgument, match=r"losses.py is a file"):
        tune(spec(), "losses.py")


def test_the_default_is_a_trial_that_the_search_learns_from_if_it_is_in_range() -> None:
    text = SEARCH.replace("solver: anchored", "solver: flowgrad").replace("anchor: [moving, fixed]", "noise: [0, 3]")
    tune(spec(text, trials=1), "out")
    first = next(line for line in Path("out/study.journal").read_text().splitlines() if TRIAL in line)
    assert json.loads(first)["params"] == {"scale": 1.0, "noise": 0}, "0.0 is the choice 0, by its place"
    tune(spec(text.replace("low: 0.5", "low: 2"), trials=1), "beyond")
    first = next(line for line in Path("beyond/study.journal").read_text().splitlines() if TRIAL in line)
    assert json.loads(first)["params"] == {}


def test_a_trial_whose_jobs_fail_is_told_and_stops_nothing() -> None:
    text = SEARCH.replace("  anchor: [moving, fixed]", "  gain: [unit, [1.0, 1.0, 1.0]]")
    found = tune(spec(text, trials=5), "out").found
    failed = [one for one in found.points if one.metric is None]
    assert failed and all(one.options["gain"] == [1.0, 1.0, 1.0] for one in failed)
    assert failed[0].note == "2 of 2 jobs failed: Anchored got 3 gains for a sampler of 2 steps."
    assert found.chosen is not None and found.chosen.options.get("gain") != [1.0, 1.0, 1.0]
    assert {one.options.get("gain") for one in found.points if one.metric is not None} <= {None, "unit"}


REFUSED = {
    SEARCH.replace("solver: anchored\n", ""): "line 1, solver: the field is missing",
    SEARCH.replace("low: 0.5", "low: 9"): "line 5, search.scale: expected {low: 0.5, high: 8}",
    SEARCH.replace("low: 0.5", "lo: 9"): r"line 5, search.scale.lo: there is no such field. Did you mean 'low'",
    SEARCH.replace("low: 0.5", "low: 0"): "line 5, search.scale: .* above 0 with log: true",
    SEARCH.replace("low: 0.5, high: 8, log: true", "low: -1, high: 1"): "line 5, search.scale: Got scale=-1.0",
    SEARCH.replace("[moving, fixed]", "[moving]"): "line 6, search.anchor: expected two choices at least",
    SEARCH.replace("anchor:", "anker:"): "line 6, search.anker: the solver 'anchored' has no such option",
    SEARCH.replace("solver: anchored", "solver: [anchored, auto]"): "line 3, solver: a preset is for one",
    SEARCH.replace("solver: anchored", "solver: {name: anchored, options: {scale: 2}}"): "search.scale: it stands",
    SEARCH.replace("max_iterations: 1", "max_iterations: [1, 2]"): "line 10, solve.max_iterations: expected one value",
    SEARCH.replace("judges.py:Rough", "judges.py:Rough, kid"): "line 7, objectives: expected two metrics",
    SEARCH.replace("judges.py:Moved", "guidance-loss"): "line 7, objectives.1: 'guidance-loss' is what guides",
    SEARCH.replace("judges.py:Moved", "kidd"): "line 7, objectives.1: .*Did you mean 'kid'",
    SEARCH.replace("judges.py:Moved", "avatars-iou"): "line 7, objectives.1: 'avatars-iou' needs a reference",
    SEARCH.replace("prompts: [red disc]", "prompts: ' '").replace("judges.py:Rough", "denoise-error"): "needs prompts",
    SEARCH.replace("trials: 4", "trials: 0"): "line 9, trials: expected greater than or equal to 1",
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED, ids=REFUSED.values())
def test_what_is_wrong_is_told_with_its_line_and_field(text: str) -> None:
    with pytest.raises(InvalidArgument, match=REFUSED[text]) as caught:
        parse_tune(HEAD + text)
    assert "\n" not in str(caught.value)


def test_the_example_is_a_spec_with_every_field() -> None:
    made = parse_tune(EXAMPLE)
    assert set(made.model_fields_set) | {"memory", "device", "gradient_mode", "watermark", "workers", "looks"} >= set(
        Tune.model_fields
    )
    assert (made.at_most, made.trials, made.seed) == (Tune.model_fields["at_most"].default, 20, 0)


def test_a_judge_that_guides_is_refused_before_anything_is_done(home: Path, capsys: Any) -> None:
    text = (
        SEARCH.replace("losses.py:bright", "avatars-identity")
        + "references: package:guideflow_avatars/portraits/ada.png\n"
    )
    Path("tune.yaml").write_text(HEAD + text.replace("judges.py:Moved", "judges.py:Guide"))
    for more in ([], ["--dry-run"]):
        assert main(["tune", "tune.yaml", "--out", "out", *more]) == 2
        assert "The metric 'judges.py:Guide' judges by weights that guided the pictures" in capsys.readouterr().err
    assert not Path("out").exists()
    for given, why in (("distance", "only describes"), ("judges.py:Rough, judges.py:Moved", "better when higher")):
        with pytest.raises(InvalidArgument, match=why):
            tune(parse_tune(HEAD + text.replace("judges.py:Moved, judges.py:Rough", given)), "out")


PEOPLE = "package:guideflow_avatars/portraits"
NAMED = SEARCH.replace("losses.py:bright", "avatars-identity").replace("low: 0.5", "low: 4") + (
    f"references: {PEOPLE}/ada.png\nnote: cartoons\n"
    f"check: {{references: {PEOPLE}/ben.png, prompts: blue ring, seeds: 5}}\n"
)


def test_what_is_found_becomes_a_preset_that_solve_takes(home: Path, capsys: Any, monkeypatch: Any) -> None:
    Path("tune.yaml").write_text(HEAD + NAMED.replace("trials: 4", "trials: 2"))
    assert main(["tune", "tune.yaml", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "jobs        2 a trial, 8 in all, 2 of them on other people" in said and "time        about" in said
    assert main(["tune", "tune.yaml", "--out", "out"]) == 0
    said = capsys.readouterr().out
    assert (
        "Wrote the preset out/toy-mixture,avatars-identity,anchored.json" in said and "On other people, chosen" in said
    )
    monkeypatch.setenv("GUIDEFLOW_PRESETS", "out")
    found = registry.find_preset("toy-mixture", "avatars-identity", "anchored")
    assert found is not None and found.num_steps == 2 and found.options["scale"] >= 4
    assert found.found["command"] == "guideflow tune tune.yaml --out out" and found.found["note"] == "cartoons"
    for jobs, number in (("jobs", 2), ("check", 1)):
        values = found.found[jobs]["objectives"]["judges.py:Moved"]
        assert values["preset"] > values["default"] >= 0 and values["unguided"] == 0
        assert found.found[jobs]["count"] == number and len(found.found[jobs]["references"]) == 1
    assert [*found.found["weights"]["loss"].values()] and found.found["versions"]["optuna"]
    sampler = gf.load_sampler("toy-mixture", size=8, num_steps=2)
    loss = gf.load_loss("avatars-identity", reference="cleo")
    solved = gf.solve(sampler, loss, solver="anchored", max_iterations=1)
    assert solved.settings.preset == found.name and solved.solver == gf.load_solver("anchored", **found.options)


def test_no_preset_is_written_that_is_not_better_than_the_default() -> None:
    found = tune(spec(NAMED.replace("Moved", "Still"), trials=1), "still")
    assert (
        found.preset is None and found.found.chosen == found.found.default and not list(Path("still").glob("*,*.json"))
    )
    far = tune(spec(NAMED, trials=1, at_most=0.01), "far")
    assert far.preset is None and "within the bound" in far.note
    with pytest.raises(InvalidArgument, match=r"ada.png is searched on and checked on"):
        tune(spec(NAMED.replace("ben", "ada")), "same")


def test_the_rule() -> None:
    judges = Judge("likeness", "higher", 0.0), Judge("error", "lower", 2.0)
    numbers = [(0.5, 2.2), (0.9, 2.6), (0.7, 2.4), (0.7, 2.3), (None, None)]
    points = tuple(Point(i, {}, metric, cost) for i, (metric, cost) in enumerate(numbers))
    found = Points(points, judges, 1.2)
    assert found.chosen == points[3] and found.beats_default(points[3]) and not found.beats_default(points[1])
    assert Points(points, judges, 1.0).chosen is None and Points(points, judges, 1.3).chosen == points[1]
    beyond = Points((Point(0, {}, 0.6, 3.0), Point(1, {}, 0.5, 2.0), Point(2, {}, 0.7, 2.9)), judges, 1.2)
    assert beyond.chosen == beyond.points[1] and not beyond.beats_default(beyond.points[1]), "it is more natural alone"
    assert beyond.beats_default(beyond.points[2]), "it is better in both, though beyond the bound"
    lower = Points(points, (Judge("distance", "lower", 9.0), judges[1]), 1.2)
    assert lower.chosen == points[0] and not lower.beats_default(points[3])
