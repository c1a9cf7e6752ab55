"""Solutions as pictures, films and texts."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import guideflow as gf
from guideflow import sheets
from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.images import read_image


def darkness(image: torch.Tensor) -> torch.Tensor:
    return image.flatten(1).mean(1)


@pytest.fixture(scope="module")
def solution() -> gf.Solution:
    sampler = gf.load_sampler("toy-mixture", size=8)
    reference = torch.full((3, 8, 8), 0.25)

    class Near(gf.Loss):
        _references = (reference,)

        def __call__(self, image: Any) -> Any:
            return (image - reference).square().flatten(1).mean(1)

    prompts = ["a red disc", "<b>green</b> & square"]
    return gf.solve(sampler, Near(), prompt=prompts, seed=[3, 4], max_iterations=3, candidates=1)


def test_the_comparison_holds_reference_unguided_and_guided(solution: gf.Solution) -> None:
    sheet = np.asarray(solution.comparison()).astype(float) / 255
    cell, gap = 320, 12
    wanted = (solution.references[0], solution.unguided[0], solution.images[0])
    top = next(y for y in range(100) if abs(sheet[y, gap + cell // 2] - 0.25).max() < 0.01)
    for i, image in enumerate(wanted):
        left = gap + i * (cell + gap)
        shown = sheet[top : top + cell, left : left + cell].mean((0, 1))
        np.testing.assert_allclose(shown, image.mean((1, 2)).numpy(), atol=0.02)


def test_labels_are_drawn_and_many_images_are_cut(solution: gf.Solution) -> None:
    sampler = gf.load_sampler("toy-mixture", size=8)
    many = gf.solve(sampler, darkness, seed=range(10), max_iterations=0, candidates=1)
    sheet = many.comparison()
    assert sheet.width == 2 * 332 + 12 and 8 * 320 < sheet.height < 9 * 360
    ink = np.asarray(sheet.convert("L"))[-40:, :200]
    assert ink.min() < 160  # "and 2 more"


def test_what_is_no_picture_is_not_drawn() -> None:
    vectors = gf.solve(gf.load_sampler("toy-linear"), lambda z: z.square().mean(1), max_iterations=1)
    assert vectors._repr_png_() is None and "<table>" in vectors._repr_html_() and "<img" not in vectors._repr_html_()
    with pytest.raises(InvalidImage, match=r"Got images of shape \(1, 8\)"):
        vectors.comparison()


def test_notebooks_show_the_picture_and_escape_what_was_typed(solution: gf.Solution) -> None:
    shown = solution._repr_html_()
    assert shown.startswith('<img src="data:image/png;base64,') and "&lt;b&gt;green&lt;/b&gt; &amp; square" in shown
    assert (solution._repr_png_() or b"").startswith(b"\x89PNG")
    assert [picture.size for picture in solution.to_pil()] == [(8, 8)] * 2


def test_a_film_goes_from_the_start_to_the_guided_images(solution: gf.Solution, tmp_path: Path) -> None:
    frames = sheets.way(solution, 5)
    torch.testing.assert_close(frames[0], solution.start)
    torch.testing.assert_close(frames[-1], solution.images)
    path = solution.animate(tmp_path / "new" / "way.gif", count=5, seconds=1)
    with Image.open(path) as film:
        assert film.n_frames == 5 and film.size == (676, 366)
    recorded = [solution.start, solution.images]
    with Image.open(solution.animate(tmp_path / "two.gif", frames=recorded)) as film:
        assert film.n_frames == 2


def test_a_film_without_a_path_is_shown_by_notebooks(solution: gf.Solution) -> None:
    film = solution.animate(count=3, seconds=1)
    assert isinstance(film, sheets.Film) and repr(film).startswith("Film(3 pictures, 1 s, a GIF of ")
    with Image.open(io.BytesIO(film.gif)) as gif:
        assert gif.n_frames == film.pictures == 3
    assert film._repr_html_().startswith('<img alt="Film(3 pictures')


def test_a_film_as_mp4(solution: gf.Solution, tmp_path: Path) -> None:
    path = solution.animate(tmp_path / "way.mp4", frames=[solution.start, solution.images], seconds=0.5)
    assert path.read_bytes()[4:8] == b"ftyp"


def test_bad_films_are_refused(solution: gf.Solution, tmp_path: Path) -> None:
    loaded = replace(solution, problem=None)
    with pytest.raises(InvalidArgument, match="loaded from disk"):
        loaded.animate(tmp_path / "a.gif")
    with pytest.raises(InvalidArgument, match=r"ends in \.gif or \.mp4"):
        solution.animate(tmp_path / "a.webm", count=2)
    with pytest.raises(InvalidArgument, match="count=1"):
        solution.animate(tmp_path / "a.gif", count=1)
    with pytest.raises(InvalidArgument, match="no frame"):
        solution.animate(tmp_path / "a.gif", frames=[])
    with pytest.raises(InvalidArgument, match="seconds=0"):
        solution.animate(tmp_path / "a.gif", count=2, seconds=0)
    assert not list(tmp_path.iterdir())


def test_texts_tell_what_things_are(solution: gf.Solution) -> None:
    assert repr(gf.load_sampler("toy-mixture", size=8)) == (
        "ToyMixture('toy-mixture', 4 steps, latents 3x8x8, images 8x8, float32 on cpu)"
    )
    loss = gf.load_loss("avatars-identity", reference="ada")
    assert repr(loss) == "AvatarsIdentity(avatars-identity, 1 reference picture)"
    assert repr(0.5 * loss + gf.as_loss(darkness)) == (  # type: ignore[operator]
        "WeightedSum(0.5 * avatars-identity + darkness, 1 reference picture)"
    )
    assert "z0=float32[2, 3, 8, 8]" in repr(solution.state) and len(repr(solution.state)) < 600
    assert "noise=Noise(initial=float32[2, 3, 8, 8]" in repr(solution.problem) and "tensor(" not in repr(solution.kept)
    recorder = gf.callbacks.Recorder(lambda progress: progress)
    gf.solve(gf.load_sampler("toy-mixture", size=8), darkness, max_iterations=1, candidates=1, callback=recorder)
    case = gf.metrics.Case("a", solution.images[0])
    for thing in (recorder.values[0], gf.Move(solution.controls), gf.losses.evaluate(darkness, solution.images), case):
        assert "float32[" in repr(thing) and "tensor(" not in repr(thing)
    assert repr(recorder) == "Recorder(2 values)" and repr(gf.callbacks.ProgressBar()) == "ProgressBar()"
    assert repr(gf.callbacks.ImageSnapshots("a", every=2)) == "ImageSnapshots('a', every=2)"
    assert repr(gf.load_metric("seconds")) == "Seconds('seconds', better: lower)"


def test_pictures_are_what_was_saved(solution: gf.Solution, tmp_path: Path) -> None:
    solution.save(tmp_path / "run")
    torch.testing.assert_close(read_image(tmp_path / "run" / "guided-01.png")[0], solution.images[1], atol=3e-3, rtol=0)
