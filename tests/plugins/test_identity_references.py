"""Reference photographs that lie on their side, and large ones with a small face."""

import math

import pytest
import torch
from torch.nn import functional as F

import guideflow as gf
import guideflow_avatars as avatars
import guideflow_identity as identity
from drawn_faces import ANN, beside, face, nobody
from guideflow_identity import Identity, NoFaceFound
from guideflow_identity.dlib import DlibFaces


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
