"""The page of `guideflow app` without a browser: forms, uploads, runs, and the texts that make the same pictures."""

import io
import json
import re
import shlex
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import guideflow as gf
from guideflow import images, registry
from guideflow.__main__ import main
from guideflow.app import choices, fields, uploads, view
from guideflow.app.choices import Asked, read_seeds
from guideflow.app.job import Job
from guideflow.app.page import PROMPT
from guideflow.app.recipe import Name, Part, Recipe
from guideflow.app.studio import Studio, files
from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.testing import fake_distribution
from guideflow.toy import ToyMixture

SOURCE = '''
import guideflow as gf
from pathlib import Path
from guideflow import images

class Match(gf.Loss):
    """Distance to a picture.

    Arguments:
        reference: Path of a picture.
        gain: Factor, at least 0.
        mode: "square" or "absolute" distance.
        checkpoint: A file of weights.
        folder: Where to look.
        secret: Read from this file.
        size: Side, or sides.
        negative: Whether to go away from it.
    """

    def __init__(self, reference: str, *, gain: float = 1.0, mode: str = "square", checkpoint: "str | Path" = "x",
                 folder: str = "none", secret: "str | None" = None, size: "int | None" = None, negative: bool = False):
        self.target = images.read_image(reference, size=32)
        self._references = (self.target[0],)
        self.gain = -gain if negative else gain
        self.mode = mode

    def __call__(self, image):
        difference = image - self.target
        difference = difference.square() if self.mode == "square" else difference.abs()
        return self.gain * difference.flatten(1).mean(1)

def dark(image, by: float = 0.5):
    """Plain function, without the algebra of losses."""
    return by * image.flatten(1).mean(1)

def make_dark(by: float = 0.5):
    """Brightness, as a plain function."""
    return lambda image: by * image.flatten(1).mean(1)

def pathological(weights: "Path"):
    """Needs what no form asks for."""

@gf.hookimpl
def guideflow_losses():
    return {"match": Match, "dark": make_dark, "pathological": pathological}
'''


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: Any) -> Any:
    """An installed plugin with losses, and a folder to work in."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "work").mkdir()
    fake_distribution(tmp_path / "plugins", "match = plugin_match", SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path / "plugins"))
    monkeypatch.chdir(tmp_path / "work")
    registry.refresh()
    choices.choices.cache_clear()
    yield
    registry.refresh()
    choices.choices.cache_clear()
    sys.modules.pop("plugin_match", None)


@pytest.fixture
def studio(tmp_path: Path) -> Any:
    room = tmp_path / "room"
    room.mkdir()
    made = Studio(room)
    yield made
    made.close()
    assert not list(room.glob("runs-*"))


def dropped(studio: Studio, name: str = "drop.png", colour: float = 0.25) -> str:
    return str(images.save_image(studio.room / name, torch.full((1, 3, 32, 32), colour)))


def asked(**more: Any) -> Asked:
    given: dict[str, Any] = {"sampler": "toy-mixture", "losses": ("match",), "solver": "auto", "options": {}}
    return Asked(**{**given, "weights": {}, "seeds": "0, 1", "iterations": 3, "candidates": 2, **more})


def done(studio: Studio, job: Job) -> Job:
    for now in studio.run(job):
        last = now
    assert last is job and job.done, job.note
    return job


# What a form asks for


def test_a_plugin_appears_by_itself_with_a_form_of_its_options_and_no_path() -> None:
    match = choices.choice("loss", "match")
    form = {field.name: (field.kind, field.default) for field in match.fields}
    assert form == {
        "reference": ("picture", None),
        "gain": ("number", 1.0),
        "mode": ("choice", "square"),
        "size": ("whole", None),
        "negative": ("switch", False),
    }
    assert {field.name: field.choices for field in match.fields}["mode"] == ("square", "absolute")
    assert "pathological" not in [one.name for one in choices.choices("loss")]


@pytest.mark.parametrize("kind", ["sampler", "loss", "solver"])
def test_no_form_of_what_is_installed_takes_a_path_as_text(kind: str) -> None:
    for choice in choices.choices(kind):
        types = {one.name: one.type for one in registry.options(registry.factory(kind, choice.name)) or ()}
        for field in choice.fields:
            if field.kind == "text":
                assert field.name == "text" and "Path" not in types[field.name]
            assert field.name not in (
                "network",
                "checkpoint",
                "pack",
                "detector",
                "lora",
                "base",
                "decoder_gradient",
                "preview_decoder",
            )
            assert field.name not in ("allow_pickle", "trust_remote_code")


def test_the_bundled_world_comes_first_and_a_layout_has_its_colours() -> None:
    assert choices.choices("sampler")[0].name.startswith("avatars-")
    segmentation = choices.choice("loss", "avatars-segmentation")
    assert segmentation.palette["hair"] == "#5d2e0c"
    assert {field.name: field.kind for field in segmentation.fields}["layout"] == "layout"
    assert "weights to download" in choices.choice("sampler", "perflow").label


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("choice", "/etc/passwd"),
        ("choice", ["square"]),
        ("number", "1e999"),
        ("number", "nan"),
        ("number", "ten"),
        ("number", True),
        ("number", float("inf")),
        ("whole", 1.5),
        ("switch", "yes"),
        ("text", "a" * 501),
        ("text", {"path": "/etc/passwd"}),
        ("choices", ["hair", "/etc/passwd"]),
    ],
)
def test_what_no_form_offers_is_refused(kind: Any, given: Any) -> None:
    field = fields.Field("option", kind, None, choices=("square", "hair"))
    with pytest.raises(InvalidArgument):
        field.read(given)


def test_numbers_may_be_typed() -> None:
    assert fields.Field("size", "whole", None).read(" 64 ") == 64
    assert fields.Field("scale", "number", None).read("1.5e-1") == 0.15
    assert fields.Field("scale", "number", 2.0).read("") == 2.0


@pytest.mark.parametrize(("text", "seeds"), [("0, 1", (0, 1)), ("3:6", (3, 4, 5)), ("7", (7,)), ("1 2;3", (1, 2, 3))])
def test_seeds_as_typed(text: str, seeds: Any) -> None:
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", None, "x", "-1", "5:5", "0:100", "0:99999999999999999", "9" * 19, "1.5", "../a"])
def test_seeds_that_are_refused(text: Any) -> None:
    with pytest.raises(InvalidArgument):
        read_seeds(text)


# What is dropped


def test_a_photograph_is_kept_as_pixels_alone_and_no_larger_than_needed(studio: Studio) -> None:
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "somewhere", 6
    path = studio.room / "photo.jpg"
    Image.new("RGB", (3000, 1500), "red").save(path, exif=exif)
    with Image.open(uploads.keep_picture(path, studio.room / "kept.png", studio.room)) as kept:
        assert kept.size == (1024, 2048) and not kept.getexif() and kept.info.get("exif") is None


def bomb(path: Path) -> None:
    """A small file of very many pixels."""
    Image.new("1", (16000, 16000)).save(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("text.png", lambda path: path.write_text("no picture")),
        ("empty.png", lambda path: path.touch()),
        ("folder.png", lambda path: path.mkdir()),
        ("bomb.png", bomb),
        ("script.svg", lambda path: path.write_text("<svg><script>1</script></svg>")),
        ("large.bmp", lambda path: path.write_bytes(b"BM" + bytes(41 * 2**20))),
    ],
)
def test_a_bad_file_is_refused_by_its_name_alone(studio: Studio, name: str, write: Any) -> None:
    write(studio.room / name)
    for keep in (uploads.keep_picture, uploads.keep_layout):
        with pytest.raises(InvalidImage) as refused:
            keep(studio.room / name, studio.room / "kept.png", studio.room)
        assert str(studio.room) not in str(refused.value) and len(str(refused.value)) < 200
    assert not (studio.room / "kept.png").exists()


def test_no_file_outside_the_room_is_read(studio: Studio, tmp_path: Path) -> None:
    outside = images.save_image(tmp_path / "secret.png", torch.zeros(1, 3, 8, 8))
    (studio.room / "link.png").symlink_to(outside)
    for path in (outside, studio.room / "link.png", studio.room / ".." / "secret.png", "/etc/passwd"):
        with pytest.raises(InvalidImage, match="dropped into the page"):
            studio.prepare("tab", asked(), {("match", "reference"): [str(path)]})
    assert studio.job("tab") is None and not list(studio._folder.iterdir())


def test_a_layout_keeps_its_numbers(studio: Studio) -> None:
    layout = Image.new("P", (4, 4))
    layout.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    layout.putdata([0, 1, 2, 1] * 4)
    layout.save(studio.room / "layout.png")
    with Image.open(uploads.keep_layout(studio.room / "layout.png", studio.room / "kept.png", studio.room)) as kept:
        assert kept.mode == "P" and kept.tobytes() == bytes([0, 1, 2, 1] * 4)


def test_a_start_photograph_and_its_mask_get_the_proportions_of_the_sampler(tmp_path: Path) -> None:
    painted = Image.new("RGBA", (60, 40))
    painted.paste((0, 0, 255, 255), (0, 0, 30, 40))
    assert uploads.keep_start(Image.new("RGB", (60, 40), "red"), painted, tmp_path) == ["start", "mask"]
    uploads.fit_start(tmp_path, (32, 32))
    with Image.open(tmp_path / "start.png") as start, Image.open(tmp_path / "mask.png") as mask:
        assert start.size == mask.size == (32, 32)
        assert [mask.getpixel((x, 16)) for x in (0, 15, 16, 31)] == [255, 255, 0, 0]
    assert uploads.keep_start(Image.new("RGB", (60, 40)), Image.new("RGBA", (60, 40)), tmp_path) == ["start"]


def test_controls_of_a_start_photograph_appear_when_the_core_has_them(monkeypatch: Any) -> None:
    def without(sampler, loss, *, prompt=""): ...

    def with_them(sampler, loss, *, prompt="", start=None, strength=0.6, mask=None): ...

    monkeypatch.setattr(choices, "solve", without)
    assert choices.starting() == ()
    monkeypatch.setattr(choices, "solve", with_them)
    assert choices.starting() == ("start", "strength", "mask")
    start = {"start": Name("start.png"), "mask": Name("mask.png")}
    recipe = asked(losses=("dark",), strength=0.5).recipe(lambda *_: [], start)
    assert recipe.more == {"candidates": 2, **start, "strength": 0.5}
    assert "--start start.png" in recipe.command() and "--strength 0.5" in recipe.command()
    assert 'mask="mask.png",' in recipe.python()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"losses": ()}, "Pick at least one loss"),
        ({"losses": ("match",)}, "needs a reference picture"),
        ({"losses": ("/etc/passwd",)}, "Expected one of"),
        ({"losses": ("evil.py:Loss",)}, "Expected one of"),
        ({"sampler": "toy"}, "Expected one of"),
        ({"prompt": "a" * 1001}, "too long"),
        ({"iterations": 201}, "from 0 to 200"),
        ({"iterations": "3"}, "from 0 to 200"),
        ({"candidates": 65}, "from 1 to 64"),
        ({"losses": ("dark",), "weights": {"dark": float("nan")}}, "weight of dark"),
        ({"losses": ("dark",), "options": {("sampler", "toy-mixture", "num_steps"): 1000}}, "at most 64"),
        ({"losses": ("dark",), "solver": "best-of", "options": {("solver", "best-of", "draws"): 10**9}}, "at most 64"),
        ({"losses": ("dark",), "solver": "tfg", "options": {("solver", "tfg", "repeats"): 65}}, "at most 64"),
        ({"losses": ("clip",), "options": {("loss", "clip", "text"): "a cat, checkpoint=x"}}, "other words"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(studio: Studio, more: Any, told: str) -> None:
    with pytest.raises(gf.GuideflowError, match=told):
        studio.prepare("tab", asked(**more), {})
    assert not list(studio._folder.iterdir())


# The tutorial

PAGE = (Path(__file__).parent.parent / "docs" / "tutorials" / "the-app.md").read_text()


def test_the_commands_of_the_tutorial_do_what_it_says(monkeypatch: Any, studio: Studio) -> None:
    import guideflow.app.server
    from guideflow_avatars import portrait

    called = []
    monkeypatch.setattr(guideflow.app.server, "serve", lambda *given: called.append(given))
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in (line for line in lines if line.startswith("guideflow app")):
        assert main(shlex.split(line, comments=True)[1:]) == 0
    assert called == [(None, True), (7871, False)]
    (extras,) = re.findall(r"pip install -e '\.\[(.*?)\]'", PAGE)
    known = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in known for extra in extras.split(",")) and "app" in extras.split(",")
    (studio.room / "ada.png").write_bytes(portrait("ada").read_bytes())
    shown = Asked("avatars-perflow", ("avatars-identity",), "auto", {}, {}, prompt=PROMPT, seeds="0, 1")
    job = studio.prepare("tab", shown, {("avatars-identity", "reference"): [str(studio.room / "ada.png")]})
    assert job.recipe.command() in PAGE and "\n".join(job.recipe.python().splitlines()) in PAGE


# Runs, and the texts that make the same


def same(job: Job, tmp_path: Path, monkeypatch: Any, *, saved_by: tuple[str, ...] = ("python", "command")) -> None:
    """Run the texts in the folder that everything.zip unpacks to, and compare every pixel and every word."""
    import zipfile

    *pictures, archive = files(job)
    for text in saved_by:
        folder = tmp_path / f"unpacked-{text}"
        zipfile.ZipFile(archive).extractall(folder)
        monkeypatch.chdir(folder)
        assert (folder / "make.py").read_text() == job.recipe.python()
        assert (folder / "make.sh").read_text() == job.recipe.command()
        if text == "python":
            exec(compile(job.recipe.python(), "make.py", "exec"), {})
        else:
            words = shlex.split(job.recipe.command().replace("\\\n", " "))
            assert words[0] == "guideflow" and main(words[1:]) == 0
        made = sorted(Path("guided").glob("guided-*.png"))
        assert [one.name for one in made] == [one.name for one in pictures]
        for mine, theirs in zip(pictures, made, strict=True):
            assert torch.equal(images.read_image(mine), images.read_image(theirs)), text
            ours, others = images.read_metadata(mine), images.read_metadata(theirs)
            assert str(job.folder) not in json.dumps(ours)
            assert ours.keys() == others.keys() and ours["guideflow:prompt"] == others["guideflow:prompt"]


def test_a_run_shows_unguided_beside_guided_and_its_texts_make_the_same(
    studio: Studio, tmp_path: Path, monkeypatch: Any
) -> None:
    options = {("loss", "match", "mode"): "absolute", ("solver", "momentum", "solver"): "anchored"}
    options |= {("sampler", "toy-mixture", "num_steps"): 3, ("solver", "momentum", "beta"): 0.8}
    asked_for = asked(
        losses=("match", "dark"), solver="momentum", options=options, weights={"dark": 0.25}, prompt='a "b", c=1 $HOME'
    )
    job = done(studio, studio.prepare("tab", asked_for, {("match", "reference"): [dropped(studio)]}))
    assert job.state == "done" and len(job.frames) == 4 and len(job.unguided) == len(job.guided) == 2
    shown = view.pictures(job)
    assert shown.count("<img") == 4 and shown.count("data:image/webp") == 4
    assert "iteration 1, loss" in view.pictures(job, 1) and len(view.curve(job)) == 8
    assert "Done: 3 iterations" in view.status(job)
    same(job, tmp_path, monkeypatch)


@pytest.mark.parametrize("when", ["choosing", "guiding"])
def test_stop_keeps_the_best_so_far_and_its_texts_make_that(
    studio: Studio, tmp_path: Path, monkeypatch: Any, when: str
) -> None:
    asked_for = asked(iterations=9, candidates=6)
    job = studio.prepare("tab", asked_for, {("match", "reference"): [dropped(studio)]})
    tell = Job._tell

    def stop_in_time(self: Job, **news: Any) -> None:
        tell(self, **news)
        if (when == "choosing" and self.tried == 3) or (when == "guiding" and len(self.frames) == 4):
            studio.stop("tab")

    monkeypatch.setattr(Job, "_tell", stop_in_time)
    done(studio, job)
    assert job.state == "stopped" and job.solution is not None and "best so far" in view.status(job)
    assert len(job.guided) == 2 and len(job.frames) == (4 if when == "guiding" else 0)
    if when == "guiding":  # `auto` had planned for nine
        assert "auto:iterations=9" in job.recipe.command() and "--iterations 3" in job.recipe.command()
    else:
        assert "--candidates 3" in job.recipe.command() and "--iterations 0" in job.recipe.command()
    same(job, tmp_path, monkeypatch)


def test_stop_does_not_wait_for_an_iteration_of_many_evaluations(studio: Studio, monkeypatch: Any) -> None:
    options = {("solver", "best-of", "draws"): 64}
    asked_for = asked(solver="best-of", options=options, iterations=9)
    job = studio.prepare("tab", asked_for, {("match", "reference"): [dropped(studio)]})
    decode, calls = ToyMixture.decode, list[bool]()

    def counted(self: ToyMixture, z: Any) -> Any:
        calls.append(job.stopping)
        if len(calls) == 8:
            studio.stop("tab")
        return decode(self, z)

    monkeypatch.setattr(ToyMixture, "decode", counted)
    done(studio, job)
    assert job.state == "stopped" and job.solution is not None and sum(calls) < 3
    assert job.solution.state.iteration == 0 and len(job.guided) == 2, "of whole iterations"


def test_stop_before_the_start_leaves_nothing_and_reaches_no_other_tab(studio: Studio) -> None:
    one = studio.prepare("one", asked(), {("match", "reference"): [dropped(studio)]})
    two = studio.prepare("two", asked(), {("match", "reference"): [dropped(studio)]})
    studio.stop("one")
    done(studio, one)
    assert one.state == "stopped" and one.solution is None and "before anything was made" in view.status(one)
    assert done(studio, two).state == "done" and not two.stopping


def test_a_tab_that_closes_ends_its_run_and_leaves_no_file(studio: Studio) -> None:
    job = studio.prepare("tab", asked(iterations=200), {("match", "reference"): [dropped(studio)]})
    watching = studio.run(job)
    next(watching)
    studio.forget("tab")
    watching.close()
    assert job.stopping and not job.folder.exists() and threading.active_count() < 20


def test_a_run_that_fails_says_why_in_a_line(studio: Studio, monkeypatch: Any) -> None:
    asked_for = asked(losses=("avatars-segmentation",))
    job = done(studio, studio.prepare("tab", asked_for, {}))
    assert job.state == "failed" and "layout" in job.note and str(studio.room) not in job.note
    assert "gf-bad" in view.status(job) and files(job) == []


def test_what_anybody_wrote_is_no_html() -> None:
    job = Job(Recipe(Part("a"), ((1, Part("b")),)), Path("nowhere"), state="failed", note="<script>alert(1)</script>")
    assert "<script>" not in view.status(job)


def test_a_lost_face_is_told_in_words(studio: Studio) -> None:
    from importlib.resources import files as resources

    photograph = Path(str(resources("guideflow_identity"))) / "eileen-collins.png"
    (studio.room / "face.png").write_bytes(photograph.read_bytes())
    options = {("sampler", "toy-mixture", "size"): 64}
    asked_for = asked(losses=("identity",), seeds="0", iterations=0, candidates=1, options=options)
    job = done(studio, studio.prepare("tab", asked_for, {("identity", "reference"): [str(studio.room / "face.png")]}))
    assert job.state == "done" and "identity never found what it looks for in any image" in job.note
    assert "gf-warn" in view.status(job)


def test_the_same_in_the_avatars_world_with_a_drawn_layout(studio: Studio, tmp_path: Path, monkeypatch: Any) -> None:
    from guideflow_avatars import portrait

    (studio.room / "ada.png").write_bytes(portrait("ada").read_bytes())
    drawn = Image.new("RGBA", (64, 64))
    drawn.paste(Image.new("RGB", (64, 20), "#5d2e0c"), (0, 0))
    asked_for = Asked(
        sampler="avatars-perflow",
        losses=("avatars-identity", "avatars-segmentation"),
        solver="auto",
        options={("loss", "avatars-segmentation", "labels"): ["hair"]},
        weights={"avatars-segmentation": 0.5},
        prompt="a person with a red shirt",
        iterations=1,
        candidates=1,
    )
    drop = {
        ("avatars-identity", "reference"): [str(studio.room / "ada.png")],
        ("avatars-segmentation", "layout"): (None, drawn),
    }
    job = done(studio, studio.prepare("tab", asked_for, drop))
    assert job.state == "done", job.note
    same(job, tmp_path, monkeypatch, saved_by=("python",))


def test_pictures_of_the_page_are_small() -> None:
    from guideflow.app.job import _encode

    (content,) = _encode(torch.rand(1, 3, 1024, 2048))
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (512, 256) and picture.format == "WEBP"
