"""Files that cannot be written to their end: none is left in part, what was there stays, and the message names it."""

import errno
import resource
import signal
from contextlib import contextmanager

import pytest
import torch
from PIL import Image

import guideflow as gf
from guideflow import sheets
from guideflow.app import uploads
from guideflow.cli.show import draw

SPEC = """
sampler: toy-mixture
loss: avatars-style
solver: anchored
solve: {max_iterations: 0, candidates: 1}
references: package:guideflow_avatars/portraits
prompts: [""]
seeds: [0]
batch: 2
"""


@contextmanager
def room(size):
    """Let no file grow beyond a size: writing fails in the middle, as on a disk that fills up."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(scope="module")
def solution():
    sampler = gf.load_sampler("toy-mixture", size=16, num_steps=2)
    return gf.solve(sampler, lambda image: image.mean((1, 2, 3)), max_iterations=1, candidates=1)


@pytest.fixture
def photograph(tmp_path):
    (tmp_path / "room").mkdir()
    file = tmp_path / "room" / "me.png"
    Image.effect_noise((80, 80), 60).convert("RGB").save(file)
    return file


def test_a_save_leaves_the_one_before(tmp_path, solution):
    solution.save(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    more = gf.resume(solution, max_iterations=2)
    with room(3000), pytest.raises(OSError, match=r"state-.*safetensors") as error:
        more.save(tmp_path / "run")
    assert error.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert torch.equal(gf.Solution.load(tmp_path / "run").images, solution.images)


def test_no_drawing_is_left_in_part(tmp_path, solution, capsys):
    for films in ([], ["film.gif"]):
        with room(500):
            assert draw(solution, tmp_path, [solution.unguided, solution.images], films) == []
        assert "Not everything could be drawn" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []


def test_no_film_is_left_in_part(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    pictures = [Image.effect_noise((64, 64), 90).convert("RGB") for _ in range(6)]
    sheets.write_film(tmp_path / "film.mp4", pictures[:2], 0.1)
    before = (tmp_path / "film.mp4").read_bytes()
    with room(1000), pytest.raises(OSError, match="film"):
        sheets.write_film(tmp_path / "film.mp4", pictures, 1.0)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize("what", ["picture", "layout", "drawing", "start"])
def test_what_is_dropped_into_the_app_is_kept_whole_or_not(tmp_path, photograph, what):
    place = tmp_path / "kept"
    place.mkdir()
    with Image.open(photograph) as picture:
        picture.load()
    keep = {
        "picture": lambda: uploads.keep_picture(photograph, place / "a.png", photograph.parent),
        "layout": lambda: uploads.keep_layout(photograph, place / "a.png", photograph.parent),
        "drawing": lambda: uploads.keep_drawing(picture, place / "a.png"),
        "start": lambda: uploads.keep_start(picture, None, place),
    }[what]
    with room(1000), pytest.raises(OSError, match=r"\.png"):
        keep()
    assert list(place.iterdir()) == []
    keep()
    assert len(list(place.iterdir())) == 1


def test_a_new_plugin_has_no_file_in_part(tmp_path):
    from guideflow.cli.init_plugin import init_plugin

    with room(300), pytest.raises(OSError):
        init_plugin("sharp-edges", "loss", tmp_path / "new")
    assert all(path.stat().st_size < 300 and ".part" not in path.name for path in (tmp_path / "new").iterdir())


def test_a_sweep_keeps_the_rows_of_what_was_drawn(tmp_path):
    from guideflow import sweep

    (tmp_path / "spec.yaml").write_text(SPEC)
    spec, finished = sweep.read_spec(tmp_path / "spec.yaml"), []

    def watch(counts, batch):
        finished.append(counts.finished)
        if counts.finished == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    with room(10**9), pytest.raises(OSError, match="pictures"):
        sweep.sweep(spec, tmp_path / "out", watch=watch)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.endswith(".part")]
    kept = len(sweep.read(tmp_path / "out", ["job"]))
    assert sweep.finished(sweep.Plan(spec), tmp_path / "out") == kept <= finished[-1]
    counts = sweep.sweep(spec, tmp_path / "out")
    assert counts.total == counts.done == len(set(sweep.read(tmp_path / "out")["job"].to_pylist()))
