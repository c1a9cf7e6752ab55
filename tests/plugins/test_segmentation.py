"""The segmentation loss on a network that sees colours: closed-form values, layouts, labels, conformance, errors."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import guideflow as gf
from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.testing import parametrize_loss
from guideflow_segmentation import Segmentation, read_layout

NAMES = ("red", "green", "blue")


class Colours(nn.Module):
    """Logits of the classes red, green and blue: ten times the channels."""

    def forward(self, image):
        return 10 * image


def halves(size=8, left=0, right=2):
    layout = torch.full((size, size), left)
    layout[:, size // 2 :] = right
    return layout


def colours(layout=None, **options):
    return Segmentation(layout, **{"network": Colours(), "names": NAMES, **options})


def paint(layout):
    """The image in which the network sees a layout."""
    return nn.functional.one_hot(layout, 3).permute(2, 0, 1)[None].float()


PERFECT = math.log(1 + 2 * math.exp(-10))
"""Cross-entropy of logits (10, 0, 0) to the first class."""


@parametrize_loss(lambda: gf.load_loss("segmentation", layout=halves(), network=Colours(), names=NAMES), image_size=32)
def test_conforms(check):
    check()


@parametrize_loss(lambda: colours(reference=paint(halves(40)), labels=["red"], others="merge", size=20), image_size=32)
def test_merged_labels_of_a_reference_conform(check):
    check()


def test_a_perfect_picture_has_the_closed_form_loss_and_a_grey_one_log_of_the_classes():
    loss = colours(halves())
    x = torch.cat([paint(halves(16)), torch.full((1, 3, 16, 16), 0.5), paint(halves(16, 2, 0))])
    torch.testing.assert_close(loss(x), torch.tensor([PERFECT, math.log(3), 10 + PERFECT]))
    torch.testing.assert_close(loss.iou(x), torch.tensor([1.0, 0.25, 0.0]))


def test_the_loss_is_the_weighted_mean_of_the_pixels():
    layout = torch.tensor([[0, 1], [2, 255]])
    x = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    log_p = (10 * x).log_softmax(1)
    expected = -(0.5 * log_p[:, 0, 0, 0] + 2 * log_p[:, 1, 0, 1] + log_p[:, 2, 1, 0]) / 3.5
    torch.testing.assert_close(colours(layout, class_weights={"red": 0.5, "green": 2})(x), expected)
    torch.testing.assert_close(colours(layout, class_weights=[0.5, 2, 1])(x), expected)


def test_ignored_pixels_neither_pull_nor_dilute():
    layout = halves()
    framed = torch.full((16, 8), 255)
    framed[:8] = layout
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.cat([x, torch.rand(1, 3, 8, 8)], dim=2).requires_grad_()
    value = colours(framed)(y)
    torch.testing.assert_close(value.detach(), colours(layout)(x))
    (gradient,) = torch.autograd.grad(value.sum(), y)
    assert gradient[..., :8, :].any() and not gradient[..., 8:, :].any()


def test_descent_on_pixels_paints_the_layout():
    loss, x = colours(halves(4)), torch.full((1, 3, 12, 12), 0.5)
    before = loss.iou(x)
    for _ in range(30):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x).sum(), x)
        x = (x - 20 * gradient).detach().clamp(0, 1)
    assert loss(x) < 2 * PERFECT
    assert loss.iou(x) == 1 > before
    assert torch.equal(loss.segment(x)[0], halves(12))


def test_the_gradient_agrees_with_finite_differences_in_float64():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.Tanh(), nn.Conv2d(4, 3, 1)).double()
    loss = Segmentation(halves(), network=network, size=10, labels=[0, 2], others="merge", mean=[0.5] * 3)
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, x, eps=1e-5)


def test_the_layout_of_a_reference_is_what_the_network_sees_in_it_prepared_alike():
    reference = paint(halves(20))
    for options in ({}, {"size": 10}):
        loss = colours(reference=reference[0], **options)
        values = loss(torch.cat([paint(halves(30)), paint(halves(30, 2, 0))]))
        assert values[0] < 0.5 < values[1]
        assert torch.equal(loss.wanted((10, 10)), halves(10))
        assert torch.equal(loss.references()[0], reference[0])
    assert "red 50%" in loss.describe()


def test_the_reference_is_segmented_once_for_each_size():
    calls = []
    network = Colours()
    network.register_forward_hook(lambda *_: calls.append(1))
    loss = Segmentation(reference=paint(halves()), network=network)
    calls.clear()
    for _ in range(3):
        loss(paint(halves(16)))
    assert len(calls) == 4


def test_labels_free_the_other_pixels_or_make_the_others_one_class():
    layout = halves()  # red and blue
    x = torch.cat([paint(halves()), paint(halves(right=1)), paint(halves(right=0))])
    torch.testing.assert_close(colours(layout, labels="red")(x), torch.full((3,), PERFECT))
    merged = colours(layout, labels="red", others="merge")(x)
    other = math.log(1 + math.exp(10) / 2) - math.log(math.exp(10) / 2 + 0.5)  # log of 1/p for (10, 0, 0) summed
    assert merged[0] == merged[1] < merged[2]  # green is as good as blue where red is not wanted
    assert abs(other) < 1 and merged[2] > 4
    torch.testing.assert_close(colours(layout, labels="red", others="merge").iou(x), torch.tensor([1.0, 1.0, 0.25]))


def test_half_precision_and_mappings_and_objects_are_accepted():
    class Out(Colours):
        def forward(self, image):
            return {"out": super().forward(image)}

    class Logits(Colours):
        def forward(self, image):
            half = nn.functional.avg_pool2d(super().forward(image), 4)  # as SegFormer, at a quarter of the size
            return type("Output", (), {"logits": half})()

    for network in (Out(), Logits()):
        value = Segmentation(halves(), network=network)(paint(halves(16)).bfloat16())
        assert value.dtype == torch.float32 and value < 1


def opened(path):
    with Image.open(path) as picture:
        picture.load()
    return picture


def palette_png(path, layout):
    picture = Image.fromarray(layout.numpy().astype(np.uint8))
    picture.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    picture.save(path)


@pytest.mark.parametrize("kind", ["palette", "grey", "16 bit", "array", "tensor", "batch", "opened", "pillow"])
def test_layouts_are_read_from_pictures_tensors_and_arrays(kind, tmp_path):
    layout, path = halves(), tmp_path / "layout.png"
    if kind in ("palette", "opened"):
        palette_png(path, layout)
        with Image.open(path) as picture:
            assert picture.mode == "P"
    elif kind == "grey":
        Image.fromarray(layout.numpy().astype(np.uint8)).save(path)
    elif kind == "16 bit":
        Image.fromarray(layout.numpy().astype(np.uint16)).save(path)
    pillow = opened(path) if kind == "opened" else Image.fromarray(layout.numpy().astype(np.uint8))
    given = {"opened": pillow, "pillow": pillow}.get(kind) or {
        "array": layout.numpy().astype(np.int32),
        "tensor": layout,
        "batch": layout[None, None],
    }.get(kind, path)
    assert torch.equal(read_layout(given), layout)
    assert colours(given)(paint(layout)) < 2 * PERFECT


def test_a_layout_may_be_drawn_in_colours(tmp_path):
    pixels = torch.tensor([[[250, 128, 0], [0, 0, 255], [255, 255, 255]], [[250, 120, 10], [0, 250, 0], [0, 0, 0]]])
    alpha = torch.full((2, 3, 1), 255)
    alpha[1, 1] = 0
    path = tmp_path / "drawn.png"
    Image.fromarray(torch.cat([pixels, alpha], 2).numpy().astype(np.uint8)).save(path)
    loss = colours(path, colours={"red": "#ff8000", "blue": (0, 0, 255), 1: "lime"})
    assert torch.equal(loss.wanted((2, 3)), torch.tensor([[0, 2, 255], [0, 255, 255]]))
    assert torch.equal(colours(opened(path), colours={"red": "#ff8000"}).wanted((2, 3))[0], torch.tensor([0, 255, 255]))
    for given in (path, opened(path)):
        with pytest.raises(InvalidImage, match=r"image in colours.*colours="):
            colours(given)
    with pytest.raises(InvalidArgument, match="the colour 'rde'"):
        colours(path, colours={"red": "rde"})


def test_resizing_a_layout_never_mixes_classes():
    layout = torch.tensor([[0, 2], [2, 0]])
    for size in ((5, 7), (64, 64), (1, 1)):
        wanted = colours(layout).wanted(size)
        assert wanted.shape == size and set(wanted.unique().tolist()) <= {0, 2}
    assert torch.equal(colours(halves(64)).wanted((8, 8)), halves(8))


def test_a_layout_is_shown_in_the_colours_of_voc():
    shown = colours(torch.tensor([[0, 1], [2, 255]])).references()[0]
    expected = torch.tensor([[[0, 0, 0], [128, 0, 0]], [[0, 128, 0], [255, 255, 255]]])
    torch.testing.assert_close(shown, expected.permute(2, 0, 1) / 255)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": None}, "neither of layout and reference"),
        ({"reference": torch.zeros(3, 4, 4)}, "both of layout and reference"),
        ({"layout": None, "reference": torch.zeros(2, 3, 4, 4)}, "2 references"),
        ({"layout": torch.tensor([[0, 3], [9, 0]])}, "3, 9 in 2 pixels.*0 to 2, or red, green, blue; 255"),
        ({"layout": halves().float()}, r"layout\.long\(\)"),
        ({"layout": torch.zeros(2, 4, 4, dtype=torch.long)}, r"shape \(2, 4, 4\)"),
        ({"labels": "gren"}, "Did you mean 'green'"),
        ({"labels": 3}, "no class 3"),
        ({"labels": []}, "no labels"),
        ({"labels": "green"}, "No pixel of the layout counts: there is red, blue in it"),
        ({"labels": "sky", "names": None}, "no names; give them"),
        ({"others": "merge"}, "without labels"),
        ({"others": "drop"}, "'ignore', 'merge'"),
        ({"names": ("red", "green")}, "Got 2 names. Expected 3"),
        ({"class_weights": [1.0, 2.0]}, "Got 2 class_weights. Expected 3"),
        ({"class_weights": {"red": -1.0}}, "at least 0"),
        ({"colours": {"red": "#f00"}}, "with an image only"),
        ({"checkpoint": "a.pth"}, "only networks of torchvision"),
        ({"network": nn.Flatten(), "names": None}, "Expected logits"),
        ({"std": [1.0, 0.0, 1.0]}, "three positive numbers"),
    ],
)
def test_options_are_refused_with_a_cure(options, message):
    with pytest.raises(InvalidArgument, match=message):
        colours(**{"layout": halves(), **options})


def test_a_layout_that_was_blurred_by_jpeg_is_refused(tmp_path):
    Image.fromarray(halves().numpy().astype(np.uint8)).save(tmp_path / "a.jpg")
    with pytest.raises(InvalidImage, match="Save the layout as a PNG"):
        colours(tmp_path / "a.jpg")
    with pytest.raises(InvalidImage, match="no file"):
        colours(tmp_path / "missing.png")


def test_the_pictures_of_a_batch_do_not_disturb_each_other():
    loss = colours(halves())
    x = torch.rand(3, 3, 8, 8, requires_grad=True)
    (together,) = torch.autograd.grad(loss(x).sum(), x)
    (alone,) = torch.autograd.grad(loss(x[1:2]).sum(), x)
    torch.testing.assert_close(together[1], alone[1])


def test_a_solve_obeys_the_layout_better_than_no_guidance():
    sampler = gf.load_sampler("toy-mixture")
    loss = colours(reference=sampler.decode(sampler.means[1:2]))
    unguided, guided = (gf.solve(sampler, loss, max_iterations=n, seed=[0, 1]).images for n in (0, 12))
    assert (loss.iou(guided) > loss.iou(unguided) + 0.3).all()
