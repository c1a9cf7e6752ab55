"""Every picture that leaves is as the others: sheets, plots, films and sweeps are guarded, marked and told of."""

import json
import re

import pytest
import torch
from PIL import Image

import guideflow as gf
import guideflow_identity
from guideflow import images, provenance, sheets
from guideflow.cli.show import draw
from guideflow.losses.by_image import by_image
from guideflow.provenance.watermark import FOUND, score

SPEC = """
sampler: {name: toy-mixture, options: {size: 128, num_steps: 2}}
loss: avatars-style
solver: anchored
solve: {max_iterations: 1, candidates: 1}
references: package:guideflow_avatars/portraits/ada.png
prompts: ["a grey picture"]
seeds: [0]
"""


@pytest.fixture(scope="module")
def solution():
    sampler = gf.load_sampler("toy-mixture", size=128, num_steps=2)
    loss = gf.load_loss("avatars-style", reference="ada")
    return gf.solve(sampler, loss, prompt="a grey picture", seed=[0, 1], max_iterations=1, candidates=1, watermark=True)


@pytest.fixture
def withholding():
    """A checker that lets nothing through."""
    provenance.install(provenance.Guard(images=lambda batch: [True] * len(batch)))
    yield
    provenance.install(None)


def test_a_face_loss_is_known_wherever_it_stands():
    face = gf.load_loss("identity", reference=guideflow_identity.example())
    style = gf.load_loss("avatars-style", reference="ada")
    for loss in (gf.balanced(face, style), by_image([face, style * 1.0 + 0 * face][:1]), 2 * gf.balanced(style, face)):
        assert provenance.is_marked(loss)
    other = gf.load_loss("identity", reference=guideflow_identity.example())
    assert provenance.is_marked(by_image([face, other]))
    assert not provenance.is_marked(gf.balanced(style, style))


def test_what_is_withheld_is_on_no_sheet(solution, withholding, tmp_path):
    sheet = images.from_pil(solution.comparison())[0]
    cell, gap = sheets._CELL, sheets._GAP
    top = int((sheet.mean(0)[:, 2 * gap + cell + cell // 2] == 0).nonzero()[0, 0])
    for column in (1, 2):  # unguided, guided
        left = gap + column * (cell + gap)
        assert not sheet[:, top : top + cell, left : left + cell].any()
    frame = images.from_pil(sheets.film([solution.images], ["iteration 0"])[0])[0]
    assert not frame[:, gap : gap + cell, gap : gap + cell].any()
    drawn = [axis.images[0].get_array() for axis in _axes(solution.plot()) if axis.images]
    assert sum(not picture.any() for picture in drawn) == 4 and len(drawn) == 5


def _axes(figure):
    return [axis for part in figure.subfigs for axis in part.axes]


def test_sheets_are_marked_and_say_what_made_them(solution, tmp_path):
    solution.save(tmp_path)
    assert draw(solution, tmp_path, [solution.unguided, solution.images], ["film.gif"]) == [
        "comparison.png",
        "film.gif",
        "plot.png",
    ]
    for name in ("comparison.png", "plot.png"):
        found = provenance.inspect(tmp_path / name)
        assert found.watermark and json.loads(found.metadata["seed"]) == [0, 1]
        assert json.loads(found.metadata["configs"])["sampler"]["name"] == "toy-mixture"
        assert found.metadata["kind"] == name.removesuffix(".png") and not re.search(r"\bada\b", str(found.metadata))
        Image.open(tmp_path / name).convert("RGB").save(tmp_path / "a.jpg", quality=75)
        assert provenance.inspect(tmp_path / "a.jpg").watermark
    assert provenance.inspect(tmp_path / "film.gif").score >= FOUND


def test_a_picture_that_is_not_to_be_marked_is_not(solution, tmp_path):
    from dataclasses import replace

    plain = replace(solution, settings=replace(solution.settings, watermark=False))
    plain.save(tmp_path)
    draw(plain, tmp_path)
    assert not provenance.inspect(tmp_path / "comparison.png").watermark


@pytest.mark.parametrize(("asked", "marked"), [("watermark: true", True), ("", False)])
def test_pictures_of_a_sweep_are_marked_and_say_what_made_them(tmp_path, asked, marked):
    from guideflow import sweep

    (tmp_path / "spec.yaml").write_text(SPEC + asked)
    sweep.sweep(sweep.read_spec(tmp_path / "spec.yaml"), tmp_path / "out")
    (row,) = sweep.read(tmp_path / "out").to_pylist()
    for column in ("image", "unguided"):
        found = provenance.inspect(tmp_path / "out" / row[column])
        assert found.watermark == marked
        assert found.metadata["prompt"] == "a grey picture" and found.metadata["job"] == row["job"]
        assert json.loads(found.metadata["configs"])["solver"]["name"] == "anchored"
        assert "guideflow_avatars/portraits" not in str(found.metadata)
        assert len(found.metadata["weights"]) > 40


def test_what_is_withheld_is_black_in_a_sweep(tmp_path, withholding):
    from guideflow import sweep

    (tmp_path / "spec.yaml").write_text(SPEC)
    sweep.sweep(sweep.read_spec(tmp_path / "spec.yaml"), tmp_path / "out")
    (row,) = sweep.read(tmp_path / "out").to_pylist()
    picture = images.read_image(tmp_path / "out" / row["image"])
    assert not picture.any()
    assert "safety checker" in images.read_metadata(tmp_path / "out" / row["image"])["guideflow:withheld"]
    assert score(torch.zeros(3, 128, 128)) < FOUND
