"""Alignment and cutting against transforms and images that are known."""

import math

import pytest
import torch
from torch.nn import functional as F

from guideflow_identity.dlib import DlibFaces
from guideflow_identity.faces import suppress
from guideflow_identity.geometry import apply, invert, similarity, square, warp


def turn(angle, scale, x, y):
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    return torch.tensor([[a, -b, x], [b, a, y]], dtype=torch.float64)


@pytest.fixture
def points():
    return torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 20 + 50


@pytest.mark.parametrize(
    ("angle", "scale", "x", "y"), [(0, 1, 0, 0), (0.3, 2, -7, 5), (-2, 0.25, 100, 3), (3.1, 1, 0, 9)]
)
def test_a_known_similarity_is_recovered(points, angle, scale, x, y):
    matrix = turn(angle, scale, x, y)
    torch.testing.assert_close(similarity(points, apply(matrix, points)), matrix, rtol=1e-10, atol=1e-9)


def test_a_batch_is_fitted_row_by_row(points):
    matrices = torch.stack([turn(0.1, 2, 3, 4), turn(-1, 0.5, 0, 1)])
    torch.testing.assert_close(similarity(points.expand(2, 5, 2), apply(matrices, points)), matrices)


def test_the_fit_is_the_best_in_least_squares(points):
    target = points.roll(1, 0) * 0.5  # no similarity of it

    def error(matrix):
        return (apply(matrix, points) - target).square().sum()

    best = similarity(points, target)
    for change in torch.eye(4, dtype=torch.float64) * 1e-3:
        a, b, x, y = change
        step = torch.stack([torch.stack([a, -b, x]), torch.stack([b, a, y])])
        assert error(best) < error(best + step)
        assert error(best) < error(best - step)


def test_a_mirrored_face_is_not_mirrored_back(points):
    matrix = similarity(points, points * torch.tensor([-1.0, 1.0], dtype=torch.float64))
    assert torch.linalg.det(matrix[:, :2]) >= 0


def test_points_that_coincide_do_not_divide_by_zero():
    matrix = similarity(torch.ones(5, 2), torch.arange(10.0).view(5, 2))
    assert torch.isfinite(matrix).all()


def test_inverse(points):
    matrix = turn(0.7, 3, 5, -2)
    torch.testing.assert_close(apply(invert(matrix), apply(matrix, points)), points)


def test_cutting_by_the_identity_changes_nothing():
    image = torch.rand(2, 3, 8, 8)
    matrix = turn(0, 1, 0, 0).float().expand(2, 2, 3)
    torch.testing.assert_close(warp(image, torch.tensor([1, 0]), matrix, 8), image[[1, 0]])


def test_cutting_is_a_shift_in_whole_pixels_with_black_outside():
    image = torch.rand(1, 3, 8, 8)
    cut = warp(image, torch.tensor([0]), turn(0, 1, 3, 0).float()[None], 8)
    torch.testing.assert_close(cut[..., 3:], image[..., :5])
    assert not cut[..., :3].any()


@pytest.mark.parametrize("factor", [2, 4])
def test_shrinking_averages_every_pixel(factor):
    image = torch.rand(1, 3, 32, 32)
    cut = warp(image, torch.tensor([0]), turn(0, 1 / factor, 0, 0).float()[None], 32 // factor)
    torch.testing.assert_close(cut, F.avg_pool2d(image, factor))


def test_without_antialiasing_pixels_are_skipped():
    image = torch.rand(1, 3, 32, 32)
    cut = warp(image, torch.tensor([0]), turn(0, 0.25, 0, 0).float()[None], 8, antialias=False)
    middle = (image[..., 1::4, 1::4] + image[..., 2::4, 1::4] + image[..., 1::4, 2::4] + image[..., 2::4, 2::4]) / 4
    torch.testing.assert_close(cut, middle)


def test_cuts_of_different_scales_keep_their_order():
    image = torch.rand(1, 3, 32, 32)
    matrices = torch.stack([turn(0, scale, 0, 0) for scale in (0.25, 1, 0.5, 1)]).float()
    index = torch.zeros(4, dtype=torch.long)
    together = warp(image, index, matrices, 8)
    alone = torch.cat([warp(image, index[:1], one[None], 8) for one in matrices])
    torch.testing.assert_close(together, alone)
    assert warp(image, index[:0], matrices[:0], 8).shape == (0, 3, 8, 8)


def test_a_square_is_cut_about_the_middle_of_a_box():
    matrix = square(torch.tensor([[10.0, 20.0, 30.0, 60.0]]), 80)
    torch.testing.assert_close(
        apply(matrix, torch.tensor([[[20.0, 40.0], [0.0, 20.0]]])), torch.tensor([[[40.0, 40.0], [0.0, 0.0]]])
    )


def test_of_overlapping_boxes_the_best_is_kept():
    box = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 0, 30, 10], [2, 2, 10, 10]]).expand(2, 4, 4)
    score = torch.tensor([[0.5, 0.9, 0.3, 0.8], [0.9, 0.1, 0.2, 0.3]])
    image, place = suppress(score, box, floor=0.1, overlap=0.5)
    assert image.tolist() == [0, 0, 1, 1] and place.tolist() == [1, 2, 0, 2]


def test_an_aligned_face_has_its_features_on_the_template():
    backend = DlibFaces()
    middle = backend.template.mean(0)
    dots = torch.zeros(1, 3, 300, 300)
    points = apply(turn(0.4, 1.5, 90, 10).float(), backend.template)
    for x, y in points.round().long().tolist():
        dots[:, :, y - 2 : y + 3, x - 2 : x + 3] = 1
    chip = backend.align(dots, torch.tensor([0]), points[None])[0, 0]
    for x, y in backend.template.long().tolist():
        assert chip[y - 1 : y + 2, x - 1 : x + 2].max() > 0.5
    assert chip[int(middle[1]) + 5, int(middle[0])] == 0


def test_of_an_image_with_many_faces_no_copies_are_kept():
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    index = torch.arange(40) % 2
    turn = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).repeat(40, 1, 1)
    turn[:, :, 2] = -torch.arange(40.0)[:, None]
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.setdefault(one.data_ptr(), one), lambda one: one):
        cut = warp(image, index, turn, 16)
        cut.square().sum().backward()
    alone = torch.cat([warp(image[i : i + 1], torch.zeros(1, dtype=torch.long), turn[k : k + 1], 16)
                       for k, i in enumerate(index.tolist())])  # fmt: skip
    assert torch.equal(cut, alone)
    assert sum(one.untyped_storage().nbytes() for one in kept.values()) < 10 * image.untyped_storage().nbytes()
