"""The identity loss on real photographs, which tools/faces/photos.py fetches; judged by networks that never guide."""

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from guideflow.images import read_image
from guideflow_identity import Identity
from guideflow_identity.dlib import DlibFaces

FACES = Path(__file__).parents[2] / "tools" / "faces"
PHOTOS = FACES / "data" / "photos"
OBAMA = [PHOTOS / f"obama{n}.jpg" for n in ("", "2", "3")]

pytestmark = [
    pytest.mark.real_faces,
    pytest.mark.skipif(not PHOTOS.is_dir(), reason="no photographs: run `python tools/faces/photos.py`"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def backend():
    return DlibFaces()


@pytest.fixture(scope="module")
def judge():
    pytest.importorskip("torchvision", reason="the judge's detector needs torchvision")
    sys.path.insert(0, str(FACES))
    import judge as module

    return module.Judge()


def portrait(backend, name, side=256):
    """Head and shoulders of the surest face of a photograph, as a square."""
    photo = read_image(PHOTOS / name)
    left, top, right, bottom = backend.find(photo, 0.5).box[0].tolist()
    half, x, y = max(right - left, bottom - top), (left + right) / 2, (top + bottom) / 2
    cut = photo[:, :, max(0, int(y - half)) : int(y + half), max(0, int(x - half)) : int(x + half)]
    return F.interpolate(cut, (side, side), mode="bilinear", antialias=True)


def embed(backend, picture, count):
    faces = backend.find(picture, 0.5)
    assert len(faces) == count
    return faces, backend.embed(backend.align(picture, faces.image, faces.points))


def test_pictures_of_a_person_are_nearer_than_those_of_others(backend):
    obama = torch.cat([embed(backend, read_image(path), 1)[1] for path in OBAMA])
    biden = embed(backend, read_image(PHOTOS / "biden.jpg"), 1)[1]
    group = embed(backend, read_image(PHOTOS / "t1.jpg"), 6)[1]
    same = backend.distance(obama, obama)[~torch.eye(3, dtype=torch.bool)]
    people = torch.cat([obama[:1], biden, group])
    others = backend.distance(people, people)[~torch.eye(8, dtype=torch.bool)]
    print(f"same person at most {same.max():.2f}, different at least {others.min():.2f}")
    assert same.max() < 0.2
    assert others.min() > 0.3


@pytest.mark.parametrize("change", ["flip", "noise", "half resolution", "all"])
def test_six_people_are_found_again(backend, change):
    photo = read_image(PHOTOS / "t1.jpg")
    faces, _ = embed(backend, photo, 6)
    left, top, right, bottom = faces.box.T
    half = (right - left) * 0.9
    x, y = (left + right) / 2, (top + bottom) / 2
    boxes = torch.stack([x - half, y - half, x + half, y + half], 1).clamp_min(0).long().tolist()
    people = [photo[:, :, box[1] : box[3], box[0] : box[2]] for box in boxes]
    changed = photo
    if change in ("half resolution", "all"):
        changed = F.interpolate(changed, scale_factor=0.5, mode="bilinear", antialias=True)
    if change in ("noise", "all"):
        noise = torch.randn(changed.shape, generator=torch.Generator().manual_seed(0))
        changed = (changed + 0.05 * noise).clamp(0, 1)
    if change in ("flip", "all"):
        changed = changed.flip(-1)
    loss = Identity(people, backend=backend)
    value = loss(changed)
    assert loss.outcome.status == (("found",) * 6,)
    print(f"{change}: distances {[round(d, 2) for d in loss.outcome.distance[0].tolist()]}")
    assert (loss.outcome.distance < (0.38 if change == "all" else 0.2)).all(), "any two people are 0.4 apart"
    places = sorted(range(6), key=lambda k: x[k])
    ordered = Identity(
        [people[k] for k in (places[::-1] if change in ("flip", "all") else places)],
        backend=backend,
        order="left-to-right",
    )
    torch.testing.assert_close(ordered(changed), value, rtol=1e-4, atol=1e-4)


def test_the_gradient_is_true_on_a_photograph():
    backend = DlibFaces().double()
    loss = Identity(OBAMA[0], backend=backend)
    x = portrait(DlibFaces(), "biden.jpg", 128).double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x).sum(), x)
    step = 1e-6 * gradient / gradient.norm()
    with torch.no_grad():
        slope = (loss(x + step) - loss(x - step)) / 2e-6
    torch.testing.assert_close(slope[0], gradient.norm(), rtol=1e-3, atol=0)


def test_a_portrait_moves_towards_another_person_for_a_judge_too(backend, judge):
    start, held_out = portrait(backend, "biden.jpg"), read_image(OBAMA[2])
    loss = Identity(OBAMA[:2], same_person=True, backend=backend)
    x = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=0.004)
    for _ in range(30):
        optimiser.zero_grad()
        loss(x.clamp(0, 1)).sum().backward()
        optimiser.step()
    picture = x.detach().clamp(0, 1)
    before, after = loss(torch.cat([start, picture])).tolist()
    judged = [judge.similarity(one, held_out) for one in (start, picture, read_image(OBAMA[0]))]
    assert None not in judged
    print(
        f"guidance distance {before:.3f} -> {after:.3f}; judge {judged[0]:.2f} -> {judged[1]:.2f}, true {judged[2]:.2f}"
    )
    assert after < 0.05 < 0.4 < before
    assert judged[1] > judged[0] + 0.05
    assert judged[2] > judged[1], "the network that guides is fooled further than the judge: both are told"
