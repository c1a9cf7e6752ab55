"""Specs of sweeps: what they may say, how they are refused, and that their jobs are enumerated and never held."""

import json
import os
import sys
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import guideflow as gf
from guideflow.errors import GuideflowError, InvalidArgument
from guideflow.evaluation.folder import located
from guideflow.sweep import Plan, Spec, read_spec
from guideflow.sweep.example import EXAMPLE
from guideflow.sweep.reading import parse_spec
from guideflow.sweep.references import references
from guideflow.sweep.spec import Part

HEAD = "sampler: toy-mixture\nloss: losses.py:bright\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("losses.py").write_text(
        "def bright(image, target: float = 0.5):\n    return (image.flatten(1).mean(1) - target).square()\n"
        "def like(image, reference: str = 'x', other: str = 'y'):\n    return image.flatten(1).mean(1)\n"
    )
    return tmp_path


def jobs(text: str) -> list[tuple[Any, ...]]:
    """What decides each job of a spec."""
    plan = Plan(parse_spec(text))
    found = [
        (batch.config.sampler, batch.config.loss, batch.config.solver, job.reference.name, job.prompt, job.seed)
        for batch in plan.batches()
        for job in batch.jobs
    ]
    assert len(found) == len(plan)
    keys = [job.key for batch in plan.batches() for job in batch.jobs]
    assert len(set(keys)) == len(keys) and all(len(key) == 32 for key in keys)
    return found


def test_the_example_is_a_spec_and_says_what_the_defaults_are() -> None:
    spec = parse_spec(EXAMPLE)
    assert len(Plan(spec)) == 8 * 3 * 2 and all(one.digest for one in Plan(spec).references)
    assert set(spec.model_fields_set) | {"memory", "device", "looks", "watermark"} == set(Spec.model_fields), (
        "every field is shown"
    )
    assert spec.model_copy(update={"references": None}).written().keys() == {"sampler", "loss", "solver", "prompts"}


def test_lists_and_grids_make_every_combination() -> None:
    found = jobs(
        "sampler: {name: toy-mixture, options: {size: 8}, grid: {num_steps: [2, 3], family: [ddim, flow]}}\n"
        "loss: [losses.py:bright, {name: losses.py:bright, weight: [0.5, 2], options: {target: 0.1}}]\n"
        "solver: [auto, {name: anchored, grid: {scale: [0.5, 1e-1]}}]\n"
        "solve: {max_iterations: [1, 2]}\nprompts: [red, green]\nseeds: {start: 5, count: 3}\n"
    )
    assert len(found) == 4 * 3 * 3 * 2 * 2 * 3
    assert {(one[0]["options"]["num_steps"], one[0]["options"]["family"]) for one in found} == {
        (2, "ddim"), (2, "flow"), (3, "ddim"), (3, "flow")
    }  # fmt: skip
    assert {one[2]["options"].get("scale") for one in found if one[2]["name"] == "anchored"} == {0.5, 0.1}
    assert {one[5] for one in found} == {5, 6, 7}


def test_prompts_of_a_protocol_are_filled_by_the_table_of_references() -> None:
    Path("kinds.csv").write_text("reference,subject\nrex.png,dog\npot.png,teapot\n")
    found = jobs(
        "sampler: toy-mixture\nloss: losses.py:like\nreferences: kinds.csv\nprompts: protocol:dreambooth-subjects"
    )
    assert len(found) == 2 * 25 and "a photo of a red teapot" in {one[4] for one in found if one[3] == "pot.png"}


def test_a_combination_that_is_named_twice_is_one_job() -> None:
    assert len(jobs(HEAD + "solver: [anchored, {name: anchored, options: {scale: 1.0}}]\nprompts: [a, b, a]")) == 2


def test_a_solver_inside_a_solver_is_a_name_or_a_mapping() -> None:
    inner = "solver: {name: momentum, options: {solver: {name: anchored, options: {scale: 2}}}}"
    (one,) = jobs(HEAD + inner)
    assert one[2]["options"]["solver"]["options"]["scale"] == 2
    assert jobs(HEAD + "solver: {name: momentum, options: {solver: anchored}}")


def test_the_key_of_a_job_is_that_of_what_decides_its_picture() -> None:
    def keys(text: str) -> list[str]:
        return [job.key for batch in Plan(parse_spec(text)).batches() for job in batch.jobs]

    first = keys(HEAD)
    assert first == keys(HEAD + "batch: 3\nmemory: 1 GB\ngradient_mode: auto\nworkers: {count: 2}")
    others = ["seeds: 1", "prompts: x", "solver: anchored", "solve: {max_iterations: 3}", "solve: {candidates: 2}"]
    assert len({*first, *(key for other in others for key in keys(HEAD + other))}) == 6
    Path("losses.py").write_text(Path("losses.py").read_text() + "\n")
    assert keys(HEAD) != first, "another file under the name is another loss"


def test_json_is_read_as_yaml_is_and_yaml_as_people_mean_it(home: Path) -> None:
    (home / "spec.json").write_text(
        '{"sampler": "toy-mixture",\n\t"loss": "losses.py:bright", "solver": {"name": "anchored", "options": '
        '{"scale": 1e-1}}, "prompts": ["no", "12:30", "2020-01-01"], "memory": "4 GB"}'
    )
    (home / "spec.yaml").write_text(
        HEAD + "solver: {name: anchored, options: {scale: 1e-1}}\nprompts: [no, 12:30, 2020-01-01]\nmemory: 4 GB"
    )
    assert read_spec("spec.json") == read_spec("spec.yaml")
    assert read_spec("spec.yaml").solver[0].options == {"scale": 0.1} and read_spec("spec.yaml").memory == 4e9


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)
REFUSED = {
    "": "spec.yaml holds no fields",
    "sampler: [": "line 1: expected the node content",
    "sampler: toy-mixture\n": "line 1, loss: the field is missing",
    HEAD + "samplr: x": r"line 3, samplr: there is no such field. Did you mean 'sampler'\?",
    HEAD + "sampler: y": "line 3: 'sampler' stands here twice",
    "a: &a [*a]": "alias",
    "? [a, b]\n: 1": "line 1: a list or mapping cannot be a name",
    "sampler: !!binary aGk=": "line 1: !!binary is not read here",
    "sampler: !!python/name:os.system": "line 1: !!python/name:os.system is not read here",
    "? !!set {a}\n: 1": "line 1: a list or mapping cannot be a name",
    "loss: losses.py:bright\nsampler: toy-mixtur": r"line 2, sampler: There is no sampler named 'toy-mixtur'",
    "loss: losses.py:bright\nsampler: {name: toy-mixture,\n options: {sise: 8}}": "line 3, sampler.options.sise",
    HEAD + "solver:\n  - auto\n  - name: anchored\n    grid:\n      scal: [1]": "line 7, solver.2.grid.scal: .*'scale'",
    HEAD + "solver: {name: anchored, options: {scale: -1}}": "line 3, solver: Got scale=-1",
    HEAD
    + "solver: {name: anchored, options: {scale: 1}, grid: {scale: [1]}}": "line 3, solver.grid.scale: it stands in",
    HEAD + "solver: anchored:scale=2": "line 3, solver: got 'anchored:scale=2'; write options as a mapping",
    HEAD + "seeds: 0-3": "line 3, seeds: got '0-3'; expected whole numbers",
    HEAD + "seeds: {count: 0}": "line 3, seeds: got",
    HEAD + "prompts: []": "line 3, prompts: an empty list leaves no job",
    HEAD + "prompts: [1]": "line 3, prompts.1: expected a valid string, got 1",
    HEAD + "prompts: protocol:avatar": "line 3, prompts: There is no protocol 'avatar'. Did you mean 'avatars'?",
    HEAD + "prompts: nowhere.txt": "line 3, prompts: the prompts in nowhere.txt cannot be read",
    HEAD + "batch: 0": "line 3, batch: expected greater than or equal to 1, got 0",
    HEAD + "memory: lots": "line 3, memory: got 'lots'; expected a number of bytes, such as 8 GB",
    HEAD + "solve:\n  max_iteration: 3": "line 4, solve.max_iteration: there is no .*'max_iterations'",
    HEAD + "solve: {max_iterations: -1}": "line 3, solve.max_iterations: Got max_iterations=-1",
    HEAD + "solve: {keep: first}": "line 3, solve.keep: expected 'best' or 'last', got 'first'",
    HEAD + "workers: {cpu: 1}": "line 3, workers.cpu: there is no such field",
    HEAD + "references: x": "line 3, references: the loss losses.py:bright takes no reference",
    "sampler: toy-mixture\nloss: avatars-identity": "line 2, loss: 'avatars-identity' needs a reference",
    "sampler: toy-mixture\nloss: gone.py:bright": "line 2, loss: There is no file gone.py",
    "sampler: 3\nloss: losses.py:bright": "line 1, sampler: got 3; expected a name, or a mapping",
    # What is meant to harm
    HEAD + "prompts: a\x00b": "neither YAML nor JSON: unacceptable character",
    "a: " + "[" * 9000: "line 1: more than 100 brackets are open",
    "- " * 9000: "neither YAML nor JSON: maximum recursion depth",
    "a: " + "9" * 9000: "neither YAML nor JSON: Exceeds the limit",
    LAUGHS: "neither YAML nor JSON: it stands for more than 1000000 values",
    HEAD + f"solver: {{name: anchored, grid: {{scale: {[*range(999)]}, decay: {[*range(999)]}}}}}": "998001 configurat",
    HEAD + "seeds: {count: 9223372036854775807}": "line 3, seeds: got",
    HEAD + "prompts: /dev/zero.txt": "line 3, prompts: the prompts in /dev/zero.txt cannot be read",
    HEAD
    + "solver: {name: momentum, options: {solver: {nam: anchored}}}": "line 3, solver: got .*expected a solver's name",
    HEAD
    + "solver: {name: momentum, options: {solver: {name: anchored, options: x}}}": "line 3, solver: got .*expected",
}


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_is_wrong_is_named_with_its_line_and_field(text: str) -> None:
    with pytest.raises(InvalidArgument, match=REFUSED[text]) as raised:
        parse_spec(text)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_none_is_refused(home: Path) -> None:
    (home / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for name, told in {"gone.yaml": "--example", "bytes.yaml": "cannot be read", ".": "cannot be read"}.items():
        with pytest.raises(InvalidArgument, match=told):
            read_spec(name)


def test_what_has_no_end_is_not_read(home: Path) -> None:
    os.mkfifo(home / "pipe.yaml")
    os.mkfifo(home / "pipe.csv")
    os.mkfifo(home / "pipe.png")
    (home / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe.yaml", "zero.yaml"):
        with pytest.raises(InvalidArgument, match="it is no file"):
            read_spec(name)
    with pytest.raises(InvalidArgument, match="cannot be read"):
        references(["pipe.csv"])
    assert [one.digest for one in references(["pipe.png", "/dev/zero"])] == ["", ""]


def pictures(*names: str) -> None:
    for i, name in enumerate(names):
        gf.images.save_image(name, torch.full((3, 4, 4), i / 10))


def test_references_come_from_folders_globs_and_packages(home: Path) -> None:
    pictures("people/b.png", "people/a.png", "c.png")
    (home / "people/notes.txt").write_text("no picture")
    assert [one.name for one in references(["people/", "c.png", "people/a.png"])] == [
        "people/a.png", "people/b.png", "c.png"
    ]  # fmt: skip
    assert [one.name for one in references(["people/*.png"])] == ["people/a.png", "people/b.png"]
    assert len(references(["package:guideflow_avatars/portraits"])) == 8
    assert references(["gone.png"])[0].digest == "", "that is for its jobs to tell"
    (home / "empty").mkdir()
    for text, told in {
        "empty": "no picture",
        "x/*.png": "No file matches",
        "package:nope/x": "no package 'nope'",
        "package:../x": "no package '..'",
    }.items():
        with pytest.raises(InvalidArgument, match=told):
            references([text])


@pytest.mark.parametrize("name", ["plugin_evil", "plugin_evil.inner"])
def test_a_package_that_a_spec_or_a_table_names_is_not_imported(home: Path, monkeypatch: Any, name: str) -> None:
    inner = home / "plugin_evil" / "inner"
    inner.mkdir(parents=True)
    for folder in (inner, inner.parent):
        (folder / "__init__.py").write_text(f"open({str(home / 'marker')!r}, 'w')")
        gf.images.save_image(folder / "a.png", torch.zeros(3, 4, 4))
    monkeypatch.syspath_prepend(str(home))
    (found,) = references([f"package:{name}/a.png"])
    assert found.path == str(located(f"package:{name}/a.png")) == str(home.joinpath(*name.split("."), "a.png"))
    assert not (home / "marker").exists() and name not in sys.modules


def test_a_table_of_references_fills_the_prompts(home: Path) -> None:
    pictures("people/a.png", "people/b.png")
    (home / "people/all.csv").write_text("reference,who,where\na.png,a cat,at sea\nb.png,a dog,at sea\n")
    text = "sampler: toy-mixture\nloss: losses.py:like\nreferences: people/all.csv\n"
    text += "prompts: ['{who} {where}', '{where}']\n"
    found = {(one[3], one[4]) for one in jobs(text)}
    assert found == {
        ("people/a.png", "a cat at sea"), ("people/a.png", "at sea"),
        ("people/b.png", "a dog at sea"), ("people/b.png", "at sea"),
    }  # fmt: skip
    with pytest.raises(InvalidArgument, match=r"asks for \{whe\}.*Did you mean 'where' or 'who'"):
        jobs(text.replace("{who}", "{whe}"))
    for table, told in {
        "": "no rows",
        "a,b\n1,2\n": "Expected one called reference",
        "reference,b\na.png\n": "row 2",
        "reference,seed\na.png,1\na.png,one\n": "row 3 the seed 'one'. Expected a whole number",
    }.items():
        (home / "bad.csv").write_text(table)
        with pytest.raises(InvalidArgument, match=told):
            references(["bad.csv"])


def test_a_table_of_references_may_say_the_seed_of_each(home: Path) -> None:
    pictures("people/a.png", "people/b.png")
    (home / "people/all.csv").write_text("reference,seed\na.png,7\nb.png,-8\n")
    text = "sampler: toy-mixture\nloss: losses.py:like\nreferences: [people/all.csv, people/b.png]\n"
    assert {(one[3], one[5]) for one in jobs(text + "seeds: [1, 2]\n")} == {("people/a.png", 7), ("people/b.png", -8)}
    pictures("people/c.png")
    text = text.replace("people/b.png]", "people/c.png]") + "seeds: [1, 2]\n"
    assert {(one[3], one[5]) for one in jobs(text)} == {
        ("people/a.png", 7), ("people/b.png", -8), ("people/c.png", 1), ("people/c.png", 2)
    }  # fmt: skip
    assert len(Plan(parse_spec(text))) == 4


def test_the_reference_goes_where_it_is_asked_for(home: Path) -> None:
    pictures("a.png")
    text = "sampler: toy-mixture\nreferences: a.png\nloss: "
    (one,) = jobs(text + "losses.py:like")
    assert one[1][0]["options"] == {"reference": "{reference}"}
    (one,) = jobs(text + "{name: losses.py:like, options: {reference: z, other: '{reference}'}}")
    assert one[1][0]["options"] == {"reference": "z", "other": "{reference}"}
    (one,) = jobs(text + "{terms: [{name: losses.py:like}, {name: losses.py:bright, weight: 2}]}")
    assert [term["weight"] for term in one[1]] == [1.0, 2.0] and "reference" not in one[1][1]["options"]


def test_a_hundred_thousand_jobs_are_planned_without_being_held() -> None:
    scales = list(range(1, 101))
    spec = Spec(
        sampler=["toy-linear"],
        loss=["losses.py:bright"],
        solver=[Part(name="anchored", grid={"scale": scales})],
        seeds={"start": 0, "count": 1000},
    )
    tracemalloc.start()
    plan = Plan(spec)
    assert len(plan) == 100_000
    assert len(list(islice(plan.batches(), 100))) == 100
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


def test_a_spec_comes_back_from_what_is_written() -> None:
    spec = parse_spec(EXAMPLE.replace("seeds: [0]", "seeds: {start: 3, count: 4}"))
    assert Spec.model_validate(json.loads(json.dumps(spec.written()))) == spec
    with pytest.raises(GuideflowError):
        parse_spec(json.dumps({**spec.written(), "sampler": 3}))
