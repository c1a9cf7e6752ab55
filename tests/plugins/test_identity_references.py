"""Reference photographs that lie on their side, and large ones with a small face."""

import math

import pytest
import torch
from torch.nn import functional as F

import guideflow as gf
import guideflow_avatars as avatars
import guideflow_identity as identity
from drawn_faces import ANN, beside, face, nobody
from guideflow_identity import Identity, NoFaceFound, reference
from guideflow_identity.dlib import DlibFaces
from guideflow_identity.search import search


@pytest.fixture(scope="module")
def backend():
    return DlibFaces()


@pytest.fixture(scope="module")
def portrait():
    return gf.images.read_image(identity.example())


def test_an_upright_portrait_is_taken_as_it_is(backend, portrait):
    assert Identity(portrait, backend=backend)(portrait).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_portrait_that_lies_is_turned_upright_with_a_warning(backend, portrait, quarter):
    with pytest.warns(UserWarning, match=f"reference 0 .* turn by {360 - 90 * quarter} degrees"):
        loss = Identity(torch.rot90(portrait, quarter, (2, 3)), backend=backend)
    assert loss(portrait).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("degrees", [-30, 45, 60, 135, 225])
def test_a_portrait_at_any_angle_shows_the_same_person(backend, portrait, degrees):
    angle = math.radians(degrees)
    turn = torch.tensor([[[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]]])
    image = F.pad(portrait, (60,) * 4, value=0.5)
    grid = F.affine_grid(turn, list(image.shape), align_corners=False)
    turned = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    if abs(degrees) > 45:
        with pytest.warns(UserWarning, match="upright only after a turn"):
            loss = Identity(turned, backend=backend)
    else:
        loss = Identity(turned, backend=backend)
    assert loss(portrait).item() < 0.05  # another person is beyond 0.34


@pytest.mark.parametrize(
    ("height", "sides", "quarter"), [(75, (1800, 2400), 0), (130, (1800, 2400), 0), (80, (1200, 1600), 1)]
)
def test_a_small_face_of_a_large_photograph_is_found(backend, portrait, height, sides, quarter):
    person = F.interpolate(portrait, scale_factor=height / 88, mode="bicubic").clamp(0, 1)  # whose face has 88 pixels
    photograph = torch.full((1, 3, *sides), 0.55)
    photograph[..., 600 : 600 + person.shape[2], 900 : 900 + person.shape[3]] = person
    photograph = torch.rot90(photograph, quarter, (2, 3))
    if quarter:
        with pytest.warns(UserWarning, match="270 degrees"):
            loss = Identity(photograph, backend=backend)
    else:
        loss = Identity(photograph, backend=backend)
    assert loss(portrait).item() < 0.1


def test_the_largest_face_counts_also_where_several_are_small(backend, portrait):
    photograph = torch.full((1, 3, 1400, 2000), 0.55)
    for x, image in ((200, face(**ANN, size=130)), (1200, F.interpolate(portrait, scale_factor=1.2))):
        photograph[..., 500 : 500 + image.shape[2], x : x + image.shape[3]] = image
    assert Identity(photograph, backend=backend)(portrait).item() < 0.1


def test_without_a_face_there_is_none_at_any_angle_or_size(backend):
    with pytest.raises(NoFaceFound, match="600 x 550 pixels"):
        Identity(F.interpolate(nobody(), (550, 600)), backend=backend)
    upright = beside(face(**ANN), nobody())
    assert Identity(upright, backend=backend)(upright).item() == pytest.approx(0, abs=1e-6)


def test_a_drawing_of_flat_colours_is_told():
    with pytest.warns(UserWarning, match=r"The face in .*cleo\.png looks drawn.*'avatars-identity'"):
        gf.load_loss("identity", reference=avatars.portrait("cleo"))


def test_in_a_crowd_the_one_looked_for_may_be_the_least_sure():
    photo = gf.images.read_image(identity.example())
    others = F.interpolate(photo, (192, 270), mode="bicubic").clamp(0, 1)[..., 39:231]
    crowd = others.repeat(1, 1, 4, 4)
    crowd[..., 576:, 576:] = photo * 0.5
    loss = gf.load_loss("identity", reference=photo)
    without, there = loss(torch.cat([others.repeat(1, 1, 4, 4), crowd])).tolist()
    assert there < 0.05 < without
    left, top = loss.outcome.place[1, 0].amin(0)
    assert left > 576 and top > 576


def photograph(portrait, height, place, sides=(1200, 1600), seed=0):
    """A noisy photograph, of bytes, with a face so high; its PNG is as large as can be."""
    draw = torch.Generator().manual_seed(seed)
    person = F.interpolate(portrait, scale_factor=height / 88, mode="bicubic").clamp(0, 1)
    image = F.interpolate(torch.rand(1, 3, 12, 16, generator=draw), sides, mode="bicubic")
    image[..., place[0] : place[0] + person.shape[2], place[1] : place[1] + person.shape[3]] = person
    return ((image + 0.06 * torch.randn(image.shape, generator=draw)).clamp(0, 1) * 255).round() / 255


def test_of_large_photographs_what_is_around_the_face_is_kept(backend, portrait, tmp_path):
    large = photograph(portrait, 200, (300, 600)), photograph(portrait, 400, (200, 300), seed=1)
    gf.images.save_image(tmp_path / "a.png", large[0])
    loss = Identity([str(tmp_path / "a.png"), large[1]], same_person=True, backend=backend)
    assert [max(one.shape) for one in loss.references()] == [pytest.approx(680, abs=60), 768]
    # Pixels as they were, where they are not shrunk; and what is kept is found again, exactly.
    first = loss.references()[0]
    ((top, left),) = (large[0][0].unfold(2, 6, 1) == first[:, None, None, 0, :6]).all(-1).all(0).nonzero().tolist()
    assert torch.equal(large[0][0, :, top : top + first.shape[1], left : left + first.shape[2]], first)
    again = Identity(list(loss.references()), same_person=True, backend=backend)
    assert all(torch.equal(one, other) for one, other in zip(again.references(), loss.references(), strict=True))
    assert torch.equal(again(portrait), loss(portrait)) and loss(portrait) < 0.1
    # A saved run has no more.
    solution = gf.solve(gf.load_sampler("toy-mixture"), loss, max_iterations=0, save_to=tmp_path / "run")
    assert sum(file.stat().st_size for file in (tmp_path / "run").iterdir()) < 4e6 < (tmp_path / "a.png").stat().st_size
    loaded = gf.Solution.load(tmp_path / "run")
    assert all(torch.equal(*both) for both in zip(loaded.references, solution.references, strict=True))


def test_the_surroundings_of_a_face_that_lies_are_kept_as_it_lies(backend, portrait):
    lying = torch.rot90(photograph(portrait, 300, (300, 500)), 1, (2, 3))
    with pytest.warns(UserWarning, match="reference 0 .* turn by 270 degrees"):
        loss = Identity(lying, backend=backend)
    with pytest.warns(UserWarning, match="reference 0 .* turn by 270 degrees"):
        again = Identity(loss.references()[0], backend=backend)
    assert max(loss.references()[0].shape) < 800
    assert torch.equal(again(portrait), loss(portrait)) and loss(portrait) < 0.1


def test_all_of_a_photograph_is_kept_if_the_face_is_not_found_again(backend, portrait, monkeypatch):
    large = photograph(portrait, 300, (300, 500))
    monkeypatch.setattr(
        reference, "search", lambda backend, image, *floors: search(backend, image * (image.shape[-1] > 768), *floors)
    )
    loss = Identity(large, backend=backend)
    assert loss.references()[0].shape == large.shape[1:] and loss(portrait) < 0.1


def test_a_large_photograph_is_looked_at_as_large_as_is_needed(backend, portrait, monkeypatch):
    looked, find = [], backend.find
    monkeypatch.setattr(backend, "find", lambda x, floor: looked.append(x.shape[-2] * x.shape[-1]) or find(x, floor))
    Identity(photograph(portrait, 150, (1200, 1500), (2400, 3200)), backend=backend)
    assert max(looked) <= 640 * 480 and sum(looked) < 2 * 2400 * 3200
