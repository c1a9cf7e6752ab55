"""What hypothesis makes of files: every reader takes them or refuses them in words, in time, and touches nothing."""

import json
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hostile
from onnx_graphs import recogniser
from untyped_damage import JUNK, places

SECONDS = 2.0
"""A file may take so long."""

MEMORY = 1.5e9
"""And so many bytes beyond what the process had."""

FEW = settings(max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=[*HealthCheck])


class Watch:
    """Sees to it that a call is short, and leaves nothing beside its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tried, self.longest = folder, 0, 0.0
        (folder / "in").mkdir()
        self.before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    @property
    def inside(self) -> Path:
        return self.folder / "in"

    def __call__(self, call: Any, *given: Any, **named: Any) -> None:
        began = time.process_time()
        call(*given, **named)
        took = time.process_time() - began
        self.tried, self.longest = self.tried + 1, max(self.longest, took)
        assert took < SECONDS, f"{took:.1f} seconds"
        assert [path.name for path in self.folder.iterdir()] == ["in"], "a file beside the folder"
        assert self.grown < MEMORY, f"{self.grown / 1e6:.0f} MB"

    @property
    def grown(self) -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - self.before


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: Any) -> Iterator[Watch]:
    (tmp_path / "watched").mkdir()
    monkeypatch.chdir(tmp_path / "watched")
    found = Watch(tmp_path / "watched")
    yield found
    assert found.tried


CHANGE = st.tuples(st.integers(0, hostile.WAYS - 1), st.integers(0, 2**32))


def changed(content: bytes, changes: list[tuple[int, int]]) -> bytes:
    for way, seed in changes:
        content = hostile.damaged(content, way, random.Random(seed)) or b"\0"
    return content


def pictures(watch: Watch, limits: settings) -> None:
    whole = hostile.good()

    @limits
    @given(st.sampled_from(sorted(whole)), st.lists(CHANGE, max_size=3))
    def attempt(name: str, changes: list[tuple[int, int]]) -> None:
        watch(hostile.read_picture, changed(whole[name], changes), watch.inside)

    attempt()


def manifests(watch: Watch, limits: settings, runs: hostile.Runs) -> None:
    manifest = runs.manifest()

    @limits
    @given(edits_of(manifest))
    def attempt(edits: Any) -> None:
        watch(runs.read, "manifest.json", json.dumps(edited(manifest, edits)).encode(), False)

    attempt()


def folders(watch: Watch, limits: settings, runs: hostile.Runs) -> None:
    @limits
    @given(st.sampled_from(runs.files), st.lists(CHANGE, min_size=1, max_size=2), st.booleans())
    def attempt(name: str, changes: list[tuple[int, int]], consistent: bool) -> None:
        watch(runs.read, name, changed((runs.saved / name).read_bytes(), changes), consistent)

    attempt()


def graphs(watch: Watch, limits: settings) -> None:
    whole = recogniser().SerializeToString()

    @limits
    @given(
        st.lists(CHANGE, min_size=1, max_size=3),
        st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=4),
    )
    def attempt(changes: list[tuple[int, int]], ends: list[tuple[int, int]]) -> None:
        content = bytearray(whole)
        for at, value in ends:  # the weights lie in the middle: nodes before them, shapes behind
            content[at if at < 1500 else at - 3000] = value
        watch(hostile.read_onnx, bytes(content) if ends else changed(bytes(content), changes), watch.inside)

    attempt()


VALUE = st.one_of(
    st.sampled_from(JUNK), st.recursive(st.none() | st.text(max_size=9) | st.integers(), st.lists, max_leaves=4)
)
SPEC = {
    "sampler": ["avatars-perflow", {"name": "toy-mixture", "options": {"size": 8}, "grid": {"num_steps": [2, 3]}}],
    "loss": [{"terms": [{"name": "avatars-identity", "weight": [0.5, 1]}, {"name": "avatars-style", "grid": {}}]}],
    "solver": ["auto", {"name": "momentum", "options": {"solver": {"name": "anchored", "options": {"scale": 2.0}}}}],
    "solve": {"max_iterations": [1, 2], "keep": "best", "target_loss": None, "loss_scale": 100.0},
    "references": ["package:guideflow_avatars/portraits/ada.png"],
    "prompts": ["a person", "{column}"],
    "seeds": {"start": 0, "count": 9},
    "memory": "8 GB",
    "workers": {"count": 2, "cpus": 1.0},
}
WORDS = [
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!python/name:os.system ",
    b"!!binary ",
    b"- ",
    b"? ",
    b": ",
    b"{",
    b"[",
    b"|\n",
    b"\0",
]
WORDS += [
    b"%YAML 9\n",
    b"---\n",
    b"\t",
    b"\xff\xfe",
    b"9" * 5000,
    b"[" * 5000,
    b"1e999",
    b"\x1b[2J",
    b"package:",
    b".py:x",
]


def edited(value: Any, edits: list[tuple[tuple[Any, ...], Any]]) -> Any:
    """Put other values at places of a JSON value."""
    now = json.loads(json.dumps(value))
    for path, put in edits:
        inner = now
        try:
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = json.loads(json.dumps(put))  # one value may be put at two places, one inside of the other
        except (LookupError, TypeError):  # an edit before has taken the place away
            continue
    return now


def edits_of(value: Any, least: int = 1) -> Any:
    return st.lists(st.tuples(st.sampled_from(sorted(places(value), key=str)), VALUE), min_size=least, max_size=3)


def specs(watch: Watch, limits: settings) -> None:
    hostile.read_spec(yaml.safe_dump(SPEC).encode(), watch.inside)  # loads what the names stand for
    words = st.lists(st.tuples(st.integers(0, 2**32), st.sampled_from(WORDS)), max_size=2)

    @limits
    @given(edits_of(SPEC, 0), words, st.lists(CHANGE, max_size=1), st.booleans())
    def attempt(edits: Any, words: list[tuple[int, bytes]], changes: list[tuple[int, int]], as_json: bool) -> None:
        now = edited(SPEC, edits)
        content = (json.dumps(now) if as_json else yaml.safe_dump(now)).encode()
        for at, word in words:
            at %= len(content)
            content = content[:at] + word + content[at:]
        watch(hostile.read_spec, changed(content, changes), watch.inside, "a.json" if as_json else "a.yaml")

    attempt()


def tables(watch: Watch, limits: settings) -> None:
    whole = b'reference,who\na.png,"ada, she"\nb.png,ben\n'

    @limits
    @given(st.lists(CHANGE, max_size=3), st.binary(max_size=20))
    def attempt(changes: list[tuple[int, int]], more: bytes) -> None:
        watch(hostile.read_table, changed(whole, changes) + more, watch.inside)

    attempt()


def adapters(watch: Watch, limits: settings) -> None:
    content, config = hostile.adapter()

    @limits
    @given(st.lists(CHANGE, max_size=2), edits_of(config, 0))
    def attempt(changes: list[tuple[int, int]], edits: Any) -> None:
        watch(hostile.read_adapter, changed(content, changes), edited(config, edits), watch.inside)

    attempt()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> Path:
    return hostile.saved_run(tmp_path_factory.mktemp("saved"))


@pytest.mark.filterwarnings("ignore")
def test_bad_pictures_are_refused_in_words(watch: Watch) -> None:
    bad = hostile.corpus()
    assert len(bad) >= 200
    for name, content in bad.items():
        watch(hostile.read_picture, content, watch.inside, Path(name).name)
        (watch.inside / Path(name).name).unlink()
    for path in hostile.special(watch.inside / "special"):
        watch(hostile._refusable, hostile.images.read_image, path)


@pytest.mark.filterwarnings("ignore")
def test_pictures(watch: Watch) -> None:
    pictures(watch, FEW)


@pytest.mark.filterwarnings("ignore")
def test_manifests(watch: Watch, saved: Path) -> None:
    manifests(watch, FEW, hostile.Runs(saved, watch.inside))


@pytest.mark.filterwarnings("ignore")
def test_saved_runs(watch: Watch, saved: Path) -> None:
    folders(watch, FEW, hostile.Runs(saved, watch.inside))


@pytest.mark.filterwarnings("ignore")
def test_onnx_graphs(watch: Watch) -> None:
    graphs(watch, FEW)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("attempt", [specs, tables, adapters])
def test_specs_tables_and_adapters(watch: Watch, attempt: Any) -> None:
    attempt(watch, FEW)
