"""`benchmarks/paper`: whom it compares on, how its specs grow, and what its tables make of numbers."""

import importlib
import json
import sys
from math import nan
from pathlib import Path

import pytest
import yaml

import guideflow as gf
from guideflow.registry.presets import find_preset
from guideflow.sweep import Plan, read_spec
from guideflow.sweep.references import references

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "paper"
MODULES = ("claims", "make", "measured", "pairs", "plots", "solving", "tables")


@pytest.fixture(scope="module")
def paper():
    """Its modules by name, which are a folder of scripts and no package."""
    sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]
    try:
        yield type("Paper", (), {name: importlib.import_module(name) for name in MODULES})
    finally:
        for folder in (FOLDER, FOLDER.parent):
            sys.path.remove(str(folder))
        for name in (*MODULES, "avatars"):
            sys.modules.pop(name, None)


def line(paper, sweep, solver, options, iterations, likeness, last=100, people=8):
    """A line whose pairs have likeness around a number, with prompts that are all right."""
    cases = [(f"{i}.png", prompt) for i in range(people) for prompt in "ab"]
    numbers = {case: likeness + 0.01 * (i % 3) for i, case in enumerate(cases)}
    values = {name: numbers if name == "likeness" else dict.fromkeys(cases, 1.0) for name in paper.measured.METRICS}
    return paper.measured.Line(sweep, solver, options, last, iterations, values, 0, 8, {})


def test_nobody_in_it_has_been_trained_on_and_a_small_run_is_the_beginning_of_a_large_one(paper, tmp_path):
    import world

    chosen = paper.pairs.portraits()
    assert {world.identity_split(one.identity) for one in chosen} == {"heldout"}
    assert len({one.identity for one in chosen}) == len(chosen) == paper.pairs.PEOPLE + paper.pairs.SEARCHED
    small, large = (references([str(paper.pairs.write(tmp_path, f"{n}", range(n)))]) for n in (4, 32))
    assert large[:4] == small and len({one.digest for one in large}) == len({one.seeds([0])[0] for one in large}) == 32
    for one in large:
        for words in one.prompts(["{first}", "{second}"]):
            colour, clothes, background = (
                words.split(" in a", 1)[1].lstrip("n ").replace(",", "").replace(" background", "").split()
            )
            assert world.is_heldout_prompt(clothes, colour, background), words


def test_its_specs_are_specs_and_the_page_shows_the_one_that_matters():
    for path in FOLDER.glob("*.yaml"):
        assert read_spec(path).references
    page = (ROOT / "docs" / "tutorials" / "reproduce-the-paper.md").read_text()
    shown = page.split("```yaml\n", 1)[1].split("```", 1)[0]
    assert yaml.safe_load(shown) == yaml.safe_load((FOLDER / "paper.yaml").read_text())


def test_a_copy_of_a_spec_has_what_a_table_needs_and_what_was_asked_before(paper, tmp_path):
    common = {"families": ["pcm"], "batch": 4, "device": "cpu", "work": tmp_path, "results": tmp_path, "command": ""}
    path = tmp_path / "paper.yaml"

    def solvers(what, count, iterations=100):
        options = paper.solving.Options(pairs=count, iterations=iterations, **common)
        paper.solving.write_spec(path, "paper", "pcm", paper.solving.NEEDED[what], options)
        found = read_spec(path)
        return [(one.name, one.options) for one in found.solver], len(references(found.references)), found

    one, people, spec = solvers("table1", 5)
    assert one == [("anchored", {"scale": 1.0})] and people == 3 and spec.sampler[0].name == "avatars-pcm"
    more, people, _ = solvers("fig15", 2)
    assert more[:1] == one and len(more) == 3 and people == 3
    best = {"solver": "flowgrad", "options": json.dumps({"scale": 4.0}), "best": "yes"}
    paper.measured.write_rows(tmp_path / "search.csv", [best, {**best, "best": "", "options": "{}"}])
    every, _, spec = solvers("all", 8, 10)
    assert every[:3] == more and len(every) == 11 and every[-1] == ("flowgrad", {"scale": 4.0})
    assert spec.solve.max_iterations == [10] and list(spec.looks) == [1, 2, 5]


def test_auto_is_what_solve_does_when_nothing_is_said(paper, tmp_path):
    preset = find_preset("avatars-pcm", "avatars-identity", "auto")
    options = paper.solving.Options(["pcm"], 4, 100, 4, "cpu", tmp_path, tmp_path, "")
    paper.solving.write_spec(tmp_path / "auto.yaml", "auto", "pcm", {}, options)
    spec = read_spec(tmp_path / "auto.yaml")
    assert [(one.name, one.options) for one in spec.solver] == [("auto", preset.options)] and preset.options
    (config,) = Plan(spec).configurations()
    assert config.solve["max_iterations"] == gf.Auto(**preset.options).default_iterations
    assert config.solve["candidates"] is None


def test_a_claim_is_asked_on_the_same_pairs(paper):
    lines = [
        line(paper, "paper", "anchored", {"scale": 1.0}, 100, 0.8),
        line(paper, "paper", "anchored", {"scale": 1.0}, 20, 0.5),
        line(paper, "paper", "unanchored", {"scale": 1.0}, 100, 0.0, people=6),
        line(paper, "paper", "noise-descent", {"lr": 0.4}, 100, 0.9),
        line(paper, "paper", "noise-descent", {"lr": 0.4, "l2": 0.1}, 100, 0.1),  # another setting
    ]
    rows = {row["claim"]: row for row in paper.claims.judge("pcm", lines)}
    told = {key: (paper.claims.verdict(row), row["difference"], row["pairs"]) for key, row in rows.items()}
    assert told == {
        "iterations": ("yes", "0.3000", "16"),
        "iterations-prompt": ("level", "0.0000", "16"),
        "anchor": ("yes", "0.8000", "12"),
        "anchor-prompt": ("level", "0.0000", "12"),
        "descent": ("no", "-0.1000", "16"),
        "descent-prompt": ("level", "0.0000", "16"),
    }
    assert paper.claims.verdict({**rows["anchor"], "pairs": "6"}) == "few pairs"
    table = paper.tables.claims(list(rows.values()), [])
    assert "| The anchor gives likeness | Table 2: 0.593, 0.116 | yes, +0.800 (+0.80 to +0.80) |" in table
    assert len({claim.key for claim in paper.claims.CLAIMS}) == len(paper.claims.CLAIMS)


def test_tables_are_written_of_whatever_there_is(paper, tmp_path):
    about = {"command": "make", "commit": "abc", "date": "2026-11-27", "machine": "a CPU"}
    lines = [
        line(paper, "unguided", "anchored", {"scale": 1.0}, 0, 0.0, last=0),
        line(paper, "paper", "anchored", {"scale": 1.0}, 20, 0.5),
        line(paper, "paper", "flowgrad", {"scale": 2.0}, 100, 0.7),
    ]
    lines[1].values["denoise"].update(dict.fromkeys(lines[1].values["denoise"], 2.0))
    lines[2].values["distance"].clear()
    rows = [paper.measured.row_of("turbo", one, about) for one in lines]
    paper.measured.write_rows(tmp_path / "paper.csv", rows)
    rows = paper.measured.read_rows(tmp_path / "paper.csv")
    assert rows[2]["distance"] == "" and rows[2]["factor"] == "2" and rows[1]["likeness"] == "0.5094"
    assert paper.tables.table1(rows).splitlines()[2:] == [
        "| `avatars-turbo` | unguided | 0.009 (0.01 to 0.01) | 1.000 | 1.000 | 1.00x | 1.00 |",
        "|  | anchored, N = 20 | 0.509 (0.51 to 0.51) | 1.000 | 1.000 | 2.00x | 1.00 |",
    ]
    best = [{"solver": "flowgrad", "options": json.dumps({"scale": 2.0}), "best": "yes"}]
    assert [row.split(" | ")[1] for row in paper.tables.table2(rows, best).splitlines()[2:]] == [
        "unguided",
        "flowgrad, scale=2.0",
    ]
    assert "`avatars-turbo`: 16 pairs" in paper.tables.caption(rows) and "quick" not in paper.tables.caption(rows)
    assert "A quick look with 50 iterations for 100" in paper.tables.caption([{**row, "of": "50"} for row in rows])
    short = [{**row, "of": "50", "pairs": "64"} for row in rows]
    assert paper.make.worth(short) < paper.make.worth(rows[:2]) <= paper.make.worth(rows)
    paper.make.draw(tmp_path, tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_a_line_of_which_nothing_is_known_has_no_number(paper):
    empty = paper.measured.Line("paper", "anchored", {}, 1, 1, {name: {} for name in paper.measured.METRICS}, 2, 0, {})
    assert empty.pairs == 0 and empty.factor is None
    assert str(empty.number("likeness")) == str((nan, nan, nan))
    assert paper.measured.row_of("pcm", empty, {})["likeness"] == ""


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["table1", "--families", "perflo"], "unknown: perflo"),
        (["table1", "--pairs", "1"], "expected 2 to 64"),
        (["all", "--batch", "0"], "expected 1 or more"),
        (["table3"], "invalid choice"),
    ],
)
def test_what_is_mistyped_is_told(paper, monkeypatch, capsys, typed, told):
    monkeypatch.setattr(sys, "argv", ["make.py", *typed])
    with pytest.raises(SystemExit):
        paper.make.main()
    assert told in capsys.readouterr().err
