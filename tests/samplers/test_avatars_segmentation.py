"""The layout loss of the avatars world with its real network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import guideflow as gf
import guideflow_avatars as avatars
from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.testing import check_loss
from guideflow_avatars import avatars_segmentation, judges
from guideflow_avatars.segmentation import PALETTE, draw
from guideflow_segmentation import read_layout

NAMES = tuple(PALETTE)
PROMPT = "a person with a green dress, orange background"


@pytest.fixture(scope="module")
def pictures():
    return torch.cat([gf.images.read_image(avatars.portrait(name)) for name in avatars.portraits()])


@pytest.fixture(scope="module")
def hana():
    return avatars_segmentation(reference=avatars.portrait("hana"))


@pytest.fixture(scope="module")
def layout():
    """A head to the left, drawn by hand."""
    drawn = torch.zeros(128, 128, dtype=torch.long)
    rows, columns = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")

    def ellipse(x, y, width, height):
        return ((columns - x) / width) ** 2 + ((rows - y) / height) ** 2 < 1

    drawn[ellipse(56, 136, 44, 32)] = NAMES.index("clothes")
    drawn[ellipse(56, 44, 34, 36)] = NAMES.index("hair")
    drawn[ellipse(56, 68, 26, 30)] = NAMES.index("skin")
    return drawn


def test_it_sees_what_the_renderer_drew(pictures, hana):
    maps = np.asarray(Image.open(Path(__file__).parent / "avatars-layouts.png"))
    drawn = torch.from_numpy(maps.astype(np.int64)).view(128, -1, 128).transpose(0, 1)
    assert (hana.segment(pictures) == drawn).float().mean() > 0.97
    assert judges.mean_iou(hana.segment(pictures), drawn).mean() > 0.87
    assert judges.layout_iou(pictures, drawn).mean() > 0.78


def test_both_networks_see_the_same_in_people_that_neither_knows(pictures, hana):
    seen, judged = hana.segment(pictures), judges.segment(pictures)
    assert (seen == judged).float().mean() > 0.95
    assert judges.mean_iou(seen, judged).mean() > 0.7
    for beards in ((seen == NAMES.index("beard")), (judged == NAMES.index("beard"))):
        large = beards.flatten(1).sum(1) > 200
        assert {name for name, one in zip(avatars.portraits(), large, strict=True) if one} == {"ben", "dan", "gus"}


def test_free_pixels_do_not_count_for_the_judge():
    wanted = torch.tensor([[[0, 1], [255, 1]]])
    assert judges.mean_iou(torch.tensor([[[0, 1], [1, 1]]]), wanted).tolist() == [1.0]
    assert judges.mean_iou(torch.tensor([[[0, 1], [0, 0]]]), wanted).tolist() == [0.5]  # 1/2 of each class


def test_the_judge_is_another_kind_of_network(hana):
    guiding, judging = hana._segmenter.network, judges.segmenter().network
    assert type(guiding) is not type(judging)
    assert guiding.encoder.out_channels != judging.encoder.out_channels


def test_it_conforms(pictures):
    check_loss(
        lambda: avatars_segmentation(reference=avatars.portrait("hana")), images=pictures, name="avatars-segmentation"
    )


def test_weights_are_float32_and_frozen(hana):
    parameters = list(hana._segmenter.network.parameters())
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in parameters)
    assert hana._segmenter.size(torch.zeros(1, 3, 512, 512)) == (128, 128)


def test_a_portrait_has_its_own_layout_and_others_have_not(pictures, hana):
    values, overlap = hana(pictures), hana.iou(pictures)
    own = avatars.portraits().index("hana")
    assert values.argmin() == own and overlap[own] == 1
    assert values[own] < 0.1
    assert (torch.cat([values[:own], values[own + 1 :]]) > 3 * values[own]).all()


def test_gradients_are_finite_and_point_at_what_is_wrong(pictures, layout):
    image = pictures[:2].clone().requires_grad_()
    loss = avatars_segmentation(layout)
    (gradient,) = torch.autograd.grad(loss(image).sum(), image)
    assert gradient.isfinite().all() and (gradient.flatten(1).norm(dim=1) > 1e-3).all()
    wrong = (loss.segment(image) != layout)[:, None].float()
    size = gradient.abs()
    inside = (size * wrong).sum() / (3 * wrong.sum())
    assert inside > (size * (1 - wrong)).sum() / (3 * (1 - wrong).sum())


@pytest.mark.slow
def test_guidance_gives_a_drawn_layout(layout):
    loss = avatars_segmentation(layout, labels=["background", "clothes", "skin", "hair"])
    sampler = gf.load_sampler("avatars-perflow")
    solution = gf.solve(sampler, loss, prompt=PROMPT, seed=[0, 1], max_iterations=8, candidates=4)
    before, after = (judges.layout_iou(images, layout) for images in (solution.unguided, solution.images))
    assert (after > before + 0.05).all()
    assert (loss.iou(solution.images) > loss.iou(solution.unguided) + 0.1).all()
    assert judges.prompt_accuracy(solution.images, solution.prompts).mean() > 0.6


def test_drawings_in_the_palette_are_read(layout, tmp_path):
    drawing = Image.fromarray((draw(layout).movedim(0, -1) * 255).byte().numpy())
    drawing.save(tmp_path / "colours.png")
    drawing.resize((512, 512), Image.Resampling.NEAREST).quantize(16).save(tmp_path / "indexed.png")
    Image.fromarray(layout.byte().numpy()).save(tmp_path / "numbers.png")
    numbered = Image.fromarray(layout.byte().numpy()).convert("P")
    numbered.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    numbered.save(tmp_path / "palette.png")
    for name in ("colours", "indexed", "numbers", "palette"):
        wanted = avatars_segmentation(tmp_path / f"{name}.png").wanted((128, 128))
        assert torch.equal(wanted, layout), name


def test_soft_edges_and_other_colours_are_free(layout, tmp_path):
    drawing = Image.fromarray((draw(layout).movedim(0, -1) * 255).byte().numpy())
    large = drawing.resize((1280, 1280), Image.Resampling.BICUBIC)
    large.paste("#808080", (0, 0, 1280, 200))
    large.save(tmp_path / "soft.png")
    wanted = avatars_segmentation(tmp_path / "soft.png").wanted((128, 128))
    assert (wanted[:19] == 255).all()
    below = wanted[20:]
    known = below != 255
    assert known.float().mean() > 0.9
    # Where two classes meet there may be free pixels, but never a third class.
    assert (known & (below != layout[20:])).sum() < 0.02 * known.sum()
    assert 4 not in wanted and 5 not in wanted


def test_transparent_pixels_are_free(layout, tmp_path):
    rgba = Image.fromarray((draw(layout).movedim(0, -1) * 255).byte().numpy()).convert("RGBA")
    rgba.paste((0, 0, 0, 0), (0, 0, 128, 64))
    rgba.save(tmp_path / "holes.png")
    wanted = avatars_segmentation(tmp_path / "holes.png").wanted((128, 128))
    assert (wanted[:64] == 255).all() and torch.equal(wanted[64:], layout[64:])


def test_references_are_shown_in_the_palette(layout, hana, pictures):
    free = layout.clone()
    free[:5] = 255
    (shown,) = avatars_segmentation(free).references()
    assert shown.shape == (3, 128, 128)
    assert torch.allclose(shown[:, 0, 0], torch.full((3,), 128 / 255))
    assert torch.allclose(shown[:, 10, 0], torch.ones(3))
    assert torch.equal(hana.references()[0], pictures[avatars.portraits().index("hana")])
    assert "background" in hana.describe() and "avatars-segmentation" in hana.describe()


def test_no_mixture_of_two_colours_reads_as_a_third():
    colours = torch.tensor([list(bytes.fromhex(code[1:])) for code in PALETTE.values()]).float()
    for share in torch.linspace(0, 1, 41):
        mixtures = torch.lerp(colours[:, None], colours, share)
        for i in range(6):
            for j in range(6):
                others = [k for k in range(6) if k not in (i, j)]
                assert (mixtures[i, j] - colours[others]).norm(dim=1).min() > 60


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "neither"),
        ({"layout": torch.full((8, 8), 6)}, "which are no classes"),
        ({"layout": torch.zeros(8, 8, dtype=torch.long), "labels": ["hare"]}, "Did you mean 'hair'"),
        ({"layout": torch.zeros(8, 8, dtype=torch.long), "labels": ["hair"]}, "No pixel of the layout counts"),
        ({"layout": torch.zeros(8, 8)}, "layout.long()"),
        ({"layout": np.zeros((8, 8), dtype=np.int64), "class_weights": [1.0, 2.0]}, "Expected 6"),
    ],
)
def test_wrong_options_are_explained(options, what):
    with pytest.raises(InvalidArgument) as error:
        avatars_segmentation(**options)
    assert what in str(error.value)


def test_wrong_files_are_explained(tmp_path):
    with pytest.raises(InvalidImage, match="There is no file"):
        avatars_segmentation(tmp_path / "none.png")
    Image.new("RGB", (128, 128), "#ffffff").save(tmp_path / "photograph.jpg")
    with pytest.raises(InvalidImage, match="blurs the edges"):
        avatars_segmentation(tmp_path / "photograph.jpg")
    Image.new("RGB", (128, 128), "#808080").save(tmp_path / "grey.png")
    with pytest.raises(InvalidArgument, match="nothing but ignored pixels"):
        avatars_segmentation(tmp_path / "grey.png")


def test_layouts_read_alike_here_and_in_the_general_loss(layout, tmp_path):
    Image.fromarray((draw(layout).movedim(0, -1) * 255).byte().numpy()).save(tmp_path / "layout.png")
    colours = {number: colour for number, colour in enumerate(PALETTE.values())}
    assert torch.equal(read_layout(tmp_path / "layout.png", colours), layout)
