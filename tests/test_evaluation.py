"""`evaluate` and `report` on folders as sweeps and solves write them."""

import json
import re
import shutil
from html.parser import HTMLParser
from math import isnan
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

import guideflow as gf
import sweeps
from guideflow import evaluation, images, registry
from guideflow.__main__ import main
from guideflow.errors import InvalidArgument, UnknownPlugin
from guideflow.evaluation import SameArchitecture, UnknownGuidance
from guideflow.metrics import Measured, Metric, measured, missed
from guideflow.testing import fake_distribution
from guideflow_avatars.identity import WEIGHTS, AvatarsIdentity, load_recogniser


class Red(Metric):
    """Mean of red; pictures of person 0 show nobody."""

    name, needs = "red", ("reference",)
    calls = 0

    def __call__(self, cases):
        self.calls += len(cases)
        return [missed() if "person-0" in case.about else measured(float(case.image[0].mean())) for case in cases]


@pytest.fixture
def drawn(tmp_path):
    return sweeps.drawn(tmp_path)


def test_misses_count_as_zero_beside_the_mean_of_what_is_found(drawn):
    folder, rows = drawn
    sweeps.write(folder, [*rows, {**sweeps.row(99, "two"), "status": "failed", "error": "nan", "image": None}])
    found = evaluation.evaluate(folder, [Red()])
    summary = evaluation.summarise(found)
    one, two = (summary.cells[config, "red"] for config in ("one", "two"))
    reds = [images.read_image(folder / row["image"])[0, 0].mean().item() for row in rows]
    assert one.mean.mean == pytest.approx(sum(reds[2:4]) / 2) and one.mean.count == 2
    assert one.rate.mean == 0.5 and one.zero.mean == pytest.approx(sum(reds[2:4]) / 4)
    assert (two.failed, two.rate.mean) == (1, pytest.approx(2 / 5)), "a job without a picture is a miss too"
    assert two.zero.mean == pytest.approx(sum(reds[6:8]) / 5)
    compared = summary.comparisons["two", "red"]
    expected = [0, 0, reds[6] - reds[2], reds[7] - reds[3]]
    assert compared.difference.mean == pytest.approx(sum(expected) / 4)
    assert compared.wins + compared.losses == 2 and compared.ties == 2
    assert summary.main == "red" and summary.best("red") is not None


def test_the_table_is_beside_that_of_the_sweep_which_stays_as_it_is(drawn):
    folder, rows = drawn
    before = (folder / "results.parquet").read_bytes()
    evaluation.evaluate(folder, [Red(), "seconds"])
    assert (folder / "results.parquet").read_bytes() == before
    table = parquet.read_table(folder / "metrics.parquet")
    assert table.column_names == ["job", "iteration", "metric", "value", "detected", "note"]
    assert len(table) == 2 * len(rows) and not list(folder.glob("*.part"))
    first = table.to_pylist()[0]
    assert first == {
        "job": rows[0]["job"],
        "iteration": None,
        "metric": "red",
        "value": None,
        "detected": False,
        "note": "nothing found",
    }
    again = evaluation.read_evaluation(folder)
    assert again.values["seconds"][rows[0]["job"]].value == 1.0 and isnan(again.values["red"][rows[0]["job"]].value)


def test_only_what_is_new_is_measured(tmp_path):
    folder, rows = sweeps.drawn(tmp_path)
    shutil.move(folder / "results.parquet", folder / "whole")
    sweeps.write(folder, rows[:3], "parts/a.parquet")
    first, second, third = Red(), Red(), Red()
    evaluation.evaluate(folder, [first])
    # A sweep that has gone on: a part more, and the table of all, with rows that the parts have too.
    sweeps.write(folder, rows[2:5], "parts/b.parquet")
    evaluation.evaluate(folder, [second])
    shutil.move(folder / "whole", folder / "results.parquet")
    found = evaluation.evaluate(folder, [third], again=True)
    assert (first.calls, second.calls, third.calls) == (3, 2, 8)
    assert list(found.values["red"]) == [row["job"] for row in rows]


def test_a_job_that_failed_and_was_done_again_is_done(tmp_path):
    folder, rows = sweeps.drawn(tmp_path)
    sweeps.write(folder, [{**rows[0], "status": "failed", "image": None}, *rows[1:]])
    sweeps.write(folder, rows[:1], "parts/a.parquet")
    assert len(evaluation.read_folder(folder).done) == len(rows)


def test_what_cannot_be_measured_gets_a_note_and_stops_nothing(drawn):
    folder, rows = drawn
    (folder / rows[2]["image"]).write_bytes(sweeps.CORRUPT)
    (folder / rows[3]["image"]).unlink()
    sweeps.write(folder, [*rows[:-1], {**rows[-1], "reference": None}])

    class Fussy(Red):
        name = "fussy"

        def __call__(self, cases):
            if any(case.seed == 0 and case.config == "two" for case in cases):
                raise RuntimeError("no zeros, please")
            return super().__call__(cases)

    found = evaluation.evaluate(folder, [Fussy(), "diversity"])
    fussy = [found.values["fussy"][row["job"]] for row in rows]
    assert (
        "is not an image" in fussy[2].note and "There is no file" in fussy[3].note and fussy[7].note == "no reference"
    )
    assert fussy[4].note == fussy[6].note == "RuntimeError: no zeros, please"
    assert fussy[5].note == "nothing found"
    diversity = [found.values["diversity"][row["job"]] for row in rows]
    assert "is not an image" in diversity[2].note and diversity[0].value > 0.3, (
        "a set goes on without what cannot be read"
    )
    assert evaluation.summarise(found).cells["one", "diversity"].missing == 2


def test_a_metric_that_answers_for_others_is_told(drawn):
    class Short(Red):
        def __call__(self, cases):
            return [Measured(1.0)] * (len(cases) + 1)

    found = evaluation.evaluate(drawn[0], [Short()])
    assert "it returned 2 numbers for 1 pictures" in found.values["red"][drawn[1][0]["job"]].note


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """A sweep in the avatars world, evaluated as it is by default."""
    folder = sweeps.solved(tmp_path_factory.mktemp("sweep"))
    return folder, evaluation.evaluate(folder)


def test_the_avatars_world_is_judged_by_networks_that_did_not_guide(solved):
    _, found = solved
    judged = [label for label in found.metrics if label not in evaluation.run.FREE]
    assert judged == ["avatars-identity-similarity", "avatars-prompt-accuracy", "denoise-error", "avatars-kid"]
    summary = evaluation.summarise(found)
    weak, strong = (summary.cells[config, "avatars-identity-similarity"] for config in ("0.5", "4"))
    assert weak.rate.mean == 1 and strong.failed == 1 and strong.rate.mean < 1
    assert -1 < weak.mean.mean < 1 and summary.cells["4", "guidance-loss"].mean.mean < 1
    distances = [summary.cells[config, "distance"].mean.mean for config in ("0.5", "4")]
    assert 0 < distances[0] < distances[1] < 0.5
    assert [one.title for one in summary.configurations] == ["scale=0.5", "scale=4"]
    assert found.warnings == () and summary.coverage is None
    hashes = {label: about.weights for label, about in found.metrics.items()}
    assert all(re.fullmatch("[0-9a-f]{64}", one) for one in hashes["avatars-identity-similarity"].values())


def test_a_report_is_one_page_that_needs_nothing_beside_it(solved, tmp_path):
    _, found = solved
    html, markdown = evaluation.report(evaluation.summarise(found), tmp_path / "deep" / "page.html", cases=5)
    text = html.read_text()
    page = Page(text)
    assert not [link for link in page.links if not link.startswith("data:image/jpeg;base64,")]
    assert page.counts["img"] == 2 * 4, "reference, unguided and two pictures; none of the job that failed"
    assert page.counts["svg"] == 1 + 2 * 4
    assert "There is no file nobody.png" in text and "3 of 3" in text
    told = markdown.read_text()
    assert "## Compared with scale=0.5, on the same jobs" in told and "| scale=4 |" in told
    assert max(map(len, text.splitlines())) > 1000 and html.stat().st_size < 2_000_000
    assert {row.count("|") for row in told.splitlines() if row.startswith("| scale")} == {5, 6, 8}


class Page(HTMLParser):
    """What a page is made of: how often each tag is there, what it links to, and its text."""

    def __init__(self, text):
        super().__init__()
        self.counts, self.links, self.open = {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.links += [value for name, value in attrs if name in ("src", "href", "data") and not value.startswith("#")]


def test_nothing_in_a_table_is_read_as_markup(tmp_path):
    folder, rows = sweeps.drawn(tmp_path)
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)> a | b"
    sweeps.write(folder, [{**row, "prompt": evil, "reference": evil, "solver": f"{row['config']}<i>"} for row in rows])
    evaluation.evaluate(folder, ["seconds", "distance"])
    summary = evaluation.summarise(evaluation.read_evaluation(folder), "two<i>")
    html, markdown = evaluation.report(summary)
    page = Page(html.read_text())
    assert page.counts["script"] == 1 and "i" in page.counts
    assert page.counts["img"] == 2 * 3 and not [link for link in page.links if not link.startswith("data:")]
    assert "alert" in markdown.read_text() and "a \\| b" in markdown.read_text()


def rows_of(tmp_path, loss, name="avatars-identity", **more):
    """A folder of one job whose loss is what is given."""
    folder, rows = sweeps.drawn(tmp_path, ("one",), 1, 1)
    portrait = "package:guideflow_avatars/portraits/ada.png"
    options = json.dumps({"loss": [{"weight": 1.0, "name": name, "options": loss}]})
    return sweeps.write(folder, [{**rows[0], "loss": name, "options": options, "reference": portrait, **more}])


class Judge(Red):
    name = "judge"

    def __init__(self, network):
        self.network = network


def test_a_judge_that_guided_is_refused(tmp_path):
    folder = rows_of(tmp_path, {"reference": "{reference}"})
    guiding = load_recogniser(WEIGHTS / "identity").eval()
    with pytest.raises(InvalidArgument, match=r"'judge' judges by weights that guided the pictures .*SHA-256"):
        evaluation.evaluate(folder, [Judge(guiding)])
    assert not (folder / "metrics.parquet").exists()
    trunk = torch.nn.Sequential(guiding.base_model, torch.nn.Linear(2, 2))
    with pytest.raises(InvalidArgument, match="guided"):  # with a head of its own it is the same judge
        evaluation.evaluate(folder, [Judge(trunk)])
    evaluation.evaluate(folder, [Judge(load_recogniser(WEIGHTS / "evaluation" / "identity"))])
    with torch.no_grad():
        for one in guiding.parameters():
            one.add_(0.01)
    with pytest.warns(SameArchitecture, match="built as the one that guided"):
        found = evaluation.evaluate(folder, [Judge(guiding)])
    assert "what fools one may fool both" in found.warnings[0]
    assert evaluation.read_evaluation(folder).warnings == found.warnings, "a report tells it too"


def test_weights_that_a_table_names_are_enough_to_refuse(tmp_path):
    network = load_recogniser(WEIGHTS / "evaluation" / "identity")
    from guideflow.losses.fingerprints import fingerprint

    hashed = json.dumps({"mine": fingerprint(network).weights})
    folder = rows_of(tmp_path, {}, "red.py:red", weights=hashed)
    with pytest.raises(InvalidArgument, match="guided the pictures"):
        evaluation.evaluate(folder, [Judge(network)])


def test_a_loss_whose_code_is_not_run_is_told(tmp_path):
    folder = rows_of(tmp_path, {}, "red.py:red", weights=None)
    network = load_recogniser(WEIGHTS / "evaluation" / "identity")
    with pytest.warns(UnknownGuidance, match=r"nobody can tell whether 'judge' is held out: red.py:red \(a loss from"):
        evaluation.evaluate(folder, [Judge(network)])
    sweeps.write(folder, [{**row, "weights": "{}"} for row in evaluation.read_folder(folder).rows])
    assert evaluation.evaluate(folder, [Judge(network)]).warnings == (), "a sweep says that no network guided"


def test_faces_are_not_judged_by_the_network_that_guided_them(tmp_path):
    import guideflow_identity

    photograph = str(guideflow_identity.example())
    folder = rows_of(tmp_path, {"reference": "{reference}"}, "identity", reference=photograph)
    with pytest.raises(InvalidArgument, match="'identity-similarity' judges by weights that guided"):
        evaluation.evaluate(folder, ["identity-similarity"])


def test_saved_solutions_are_evaluated_alone_and_together(tmp_path):
    sampler, loss = gf.load_sampler("toy-mixture"), lambda image: image.flatten(1).mean(1)
    for name, solver in {"weak": gf.FlowGrad(scale=0.1), "strong": gf.FlowGrad(scale=2.0)}.items():
        gf.solve(sampler, loss, prompt="red disc", seed=[0, 1, 2], solver=solver, max_iterations=2).save(
            tmp_path / name
        )
    alone = evaluation.evaluate(tmp_path / "weak", ["guidance-loss", "distance"])
    solution = gf.Solution.load(tmp_path / "weak")
    assert [one.value for one in alone.values["guidance-loss"].values()] == pytest.approx(solution.loss.tolist())
    expected = (solution.images - solution.unguided).square().mean((1, 2, 3)).sqrt().tolist()
    assert [one.value for one in alone.values["distance"].values()] == pytest.approx(expected, abs=4e-3)
    together = evaluation.summarise(evaluation.evaluate(tmp_path, ["guidance-loss", "distance"]))
    assert [one.title for one in together.configurations] == ["scale=2", "scale=0.1"]
    found = together.comparisons[together.configurations[1].key, "guidance-loss"]
    assert found.losses == 3 and found.difference.mean > 0


def test_what_is_no_folder_of_pictures_is_refused(tmp_path):
    with pytest.raises(InvalidArgument, match="There is no folder"):
        evaluation.evaluate(tmp_path / "nowhere")
    with pytest.raises(InvalidArgument, match=r"holds neither results.parquet nor manifest.json"):
        evaluation.evaluate(tmp_path)
    (tmp_path / "results.parquet").write_bytes(b"PAR1 nothing of the kind")
    with pytest.raises(InvalidArgument, match="cannot be read as Parquet"):
        evaluation.evaluate(tmp_path)
    (tmp_path / "results.parquet").unlink()
    (tmp_path / "manifest.json").write_text('{"images": 3}')
    with pytest.raises(InvalidArgument, match=r"is not what `Solution.save` writes \(KeyError"):
        evaluation.evaluate(tmp_path)


def test_tables_that_lie_are_refused(drawn):
    folder, rows = drawn
    sweeps.write(folder, [{**rows[0], "image": "../../secret.png"}])
    with pytest.raises(InvalidArgument, match="is no file of that folder"):
        evaluation.evaluate(folder, ["distance"])
    table = parquet.read_table(folder / "results.parquet")
    parquet.write_table(table.drop_columns(["config"]), folder / "results.parquet")
    with pytest.raises(InvalidArgument, match="has no column 'config'"):
        evaluation.evaluate(folder, ["distance"])
    sweeps.write(folder, [{**rows[0], "status": "failed"}])
    with pytest.raises(InvalidArgument, match="has a picture yet"):
        evaluation.evaluate(folder, ["distance"])


def test_tables_of_other_types_are_refused(drawn):
    folder = drawn[0]
    good = parquet.read_table(folder / "results.parquet")
    for name in ("job", "sampler", "options", "reference", "prompt", "seed", "image", "unguided"):
        if name not in good.column_names:
            continue
        for value in (0.5, [1], {"a": 1}):
            column = pa.array([value] * len(good))
            parquet.write_table(
                good.set_column(good.column_names.index(name), name, column), folder / "results.parquet"
            )
            with pytest.raises(InvalidArgument, match=f"has .* as '{name}'"):
                evaluation.evaluate(folder, ["seconds"])


def test_wrong_words_are_refused_with_a_cure(drawn):
    folder, _ = drawn
    with pytest.raises(InvalidArgument, match=r"Nothing has been measured .* Type: guideflow evaluate"):
        evaluation.read_evaluation(folder)
    with pytest.raises(UnknownPlugin, match="Did you mean 'distance'"):
        evaluation.evaluate(folder, ["distanse"])
    with pytest.raises(InvalidArgument, match="Got no metric"):
        evaluation.evaluate(folder, [])
    with pytest.raises(InvalidArgument, match="batch=0"):
        evaluation.evaluate(folder, ["distance"], batch=0)
    found = evaluation.evaluate(folder, ["distance"])
    with pytest.raises(InvalidArgument, match=r"no configuration 'on'. Did you mean 'one'\? Known: one; two"):
        evaluation.summarise(found, "on")
    with pytest.raises(InvalidArgument, match="ends in"):
        evaluation.report(evaluation.summarise(found), folder / "report.txt")
    (folder / "metrics.parquet").write_bytes(b"nothing")
    with pytest.raises(InvalidArgument, match="Delete it and evaluate again"):
        evaluation.evaluate(folder, ["distance"])


def test_protocols_that_come_along_fit_what_they_say():
    assert evaluation.protocol_names() == ("avatars", "dreambooth-subjects", "paper-faces")
    paper = evaluation.load_protocol("paper-faces")
    assert paper.size == 200 * 20 and [len(texts) for texts in paper.prompts.values()] == [15, 5]
    subjects = evaluation.load_protocol("dreambooth-subjects")
    assert subjects.size == 30 * 25 * 4 and "a photo of a red teapot" in subjects.asks("teapot")
    for name in evaluation.protocol_names():
        rule = evaluation.load_protocol(name)
        assert rule.name == name and rule.notes and len(set(rule.asks())) == len(rule.asks())
        for one in rule.metrics:
            known = [option.name for option in registry.options(registry.factory("metric", one.name))]
            assert set(one.options) <= set(known)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [", "is no YAML"),
        ("- a", "holds a list"),
        ("nam: x", "has a field 'nam'. Did you mean 'name'"),
        ("summary: x", "it has no name"),
        ("name: x\nreferences: many", "references is a str, not a int"),
        ("name: x\nprompts: {a: [1]}", "the prompt 1 is a int"),
        ("name: x\nmetrics: [{nam: kid}]", "the metric {'nam': 'kid'} is no name, and no mapping of name"),
        ("name: x\nmetrics: [3]", "the metric 3 is no name"),
        ("name: x\nmetrics: [{name: kid, option: {}}]", "is no name, and no mapping of name, options, optional"),
    ],
)
def test_protocols_of_ones_own_are_checked(tmp_path, text, says):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InvalidArgument, match=re.escape(says)):
        evaluation.load_protocol(tmp_path / "mine.yaml")
    with pytest.raises(InvalidArgument, match=r"Did you mean 'avatars'\?"):
        evaluation.load_protocol("avatar")


def test_a_protocol_says_what_is_measured_and_how_much_is_there(drawn):
    folder, _ = drawn
    mine = folder / "mine.yaml"
    mine.write_text(
        "name: mine\nreferences: 3\nprompts: {plain: [a person]}\nseeds: [0, 1]\nmetrics:\n"
        "  - distance\n  - {name: style-distance, options: {backend: vgg-gram, checkpoint: no.pth}, optional: true}\n"
    )
    with pytest.warns(UserWarning, match="'style-distance' of the protocol is left out"):
        found = evaluation.evaluate(folder, protocol=mine)
    assert "distance" in found.metrics and not [label for label in found.metrics if "style" in label]
    assert evaluation.summarise(found).coverage == (4, 6)
    assert evaluation.summarise(evaluation.read_evaluation(folder)).coverage == (4, 6)


PLUGIN = '''
import guideflow as gf
from guideflow.metrics import Metric, measured

class Green(Metric):
    """Mean of green.

    Arguments:
        gain: Factor.
    """

    def __init__(self, gain: float = 1.0):
        self.gain = gain

    def __call__(self, cases):
        return [measured(self.gain * float(case.image[1].mean())) for case in cases]

@gf.hookimpl
def guideflow_metrics():
    return {"green": Green, "fake": dict}
'''


def test_the_command_line_measures_reports_and_refuses(drawn, capsys, monkeypatch, tmp_path_factory):
    folder, rows = drawn
    site = tmp_path_factory.mktemp("site")
    fake_distribution(site, "green = plugin_green", PLUGIN)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("COLUMNS", "120")
    registry.refresh()
    try:
        assert main(["list", "metrics"]) == 0 and "green" in capsys.readouterr().out
        assert main(["info", "green"]) == 0
        assert "use: guideflow evaluate FOLDER --metric green" in capsys.readouterr().out
        command = ["evaluate", str(folder), "--metric", "green:gain=2", "--metric", "seconds"]
        assert main(command) == 0
        out = capsys.readouterr().out
        assert "8 jobs in 2 configurations, 0 failed" in out and "green ↑" in out and "guideflow report" in out
        assert main([*command, "--json", "--baseline", "two"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["baseline"] == "two" and set(told["metrics"]) == {"green:gain=2", "seconds"}
        greens = [2 * images.read_image(folder / row["image"])[0, 1].mean().item() for row in rows[:4]]
        cell = told["configurations"][0]["metrics"]["green:gain=2"]
        assert cell["mean"]["mean"] == pytest.approx(sum(greens) / 4) and cell["rate"] is None
        assert main(["report", str(folder), "--cases", "2", "--out", str(folder / "r.html")]) == 0
        assert capsys.readouterr().out.splitlines() == [str(folder / "r.html"), str(folder / "r.md")]
        monkeypatch.setenv("COLUMNS", "40")  # as many tables as it takes; no word is cut
        assert main([*command, "--metric", "guidance-loss", "--metric", "network-evaluations"]) == 0
        out = capsys.readouterr().out.partition("Means")[0]
        assert max(map(len, out.splitlines())) <= 40 and out.count("configuration  ") >= 2
        assert {"guidance-", "loss", "network-", "evaluations"} <= {*out.split()}
        monkeypatch.setenv("COLUMNS", "120")
        for bad, says in {
            ("--metric", "greem"): "Did you mean 'green'?",
            ("--metric", "fake"): "is made as a dict",
            ("--metric", "green:gai=2"): "has no option 'gai'. Did you mean 'gain'?",
            ("--protocol", "papers"): "There is no protocol 'papers'",
            ("--metric", "green", "--protocol", "avatars"): "Expected one of them",
            ("--metric", "green", "--baseline", "three"): "There is no configuration 'three'",
        }.items():
            assert main(["evaluate", str(folder), *bad]) == 2
            assert says in capsys.readouterr().err, bad
        assert main(["report", str(Path(folder) / "nowhere")]) == 2
    finally:
        registry.refresh()


def test_the_guiding_loss_itself_is_no_metric():
    with pytest.raises(UnknownPlugin, match="There is a loss of that name: use load_loss"):
        gf.load_metric("avatars-identity")
    assert AvatarsIdentity.name == "avatars-identity"
