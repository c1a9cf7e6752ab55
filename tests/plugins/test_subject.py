"""`subject`: boxes, matching and missing subjects, with hand-made networks."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.losses.matching import assign
from guideflow.testing import parametrize_loss
from guideflow_subject import Detector, NoSubjectFound, Subject
from guideflow_subject.detector import Query, candidates, overlap

RED, GREEN, BLUE = (torch.tensor(c).view(3, 1, 1) for c in ((0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9)))


def scene(*things, size=32, grey=0.5):
    """A grey image (1, 3, size, size) with coloured squares, (colour, left, top, side) each."""
    image = torch.full((1, 3, size, size), grey)
    for colour, left, top, side in things:
        image[0, :, top : top + side, left : left + side] = colour
    return image


class Colours(nn.Module):
    """Features with a known answer: the mean colour, from normalised crops."""

    def forward(self, crops):
        mean, std = (crops.new_tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return (crops * std + mean).mean((2, 3))


class Squares(Detector):
    """Finds the bounding box of each pure colour; a query is a colour."""

    def __init__(self):
        super().__init__()
        self.looks = 0

    def boxes(self, image):
        found = []
        for colour in (RED, GREEN, BLUE):
            here = ((image - colour).abs().amax(0) < 0.35).nonzero()
            box = [0.0] * 4 if not len(here) else [*here.amin(0).flip(0).tolist(), *(here.amax(0).flip(0) + 1).tolist()]
            found.append(box)
        return torch.tensor(found, dtype=torch.float32)

    def query(self, image, text):
        boxes = self.boxes(image[0])
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        wanted = areas.argmax() if text is None else ["red", "green", "blue"].index(text)
        score = 1.0 if areas[wanted] else 0.0
        return Query(torch.eye(3)[wanted], boxes[wanted], score)

    def find(self, image, queries):
        self.looks += 1
        boxes = torch.stack([self.boxes(one) for one in image])
        present = (boxes[..., 2] > boxes[..., 0]).float()
        # Every coloured square looks a little like any query.
        return boxes, present[:, None] * (0.3 + 0.6 * queries)


def make(reference, **options):
    return Subject(reference, **({"network": Colours(), "detector": Squares(), "size": 2} | options))


def cosine_loss(one, other):
    return 1 - F.cosine_similarity(one.flatten(), other.flatten(), dim=0).item()


# Crops and features.


# The loss.


def test_known_distances():
    loss = make(scene((RED, 4, 4, 10)))
    same, other = scene((RED, 15, 8, 8)), scene((RED * 0.7 + GREEN * 0.3, 15, 8, 8))
    value = loss(torch.cat([same, other]))
    assert value[0].item() == pytest.approx(0, abs=1e-6)
    assert value[1].item() == pytest.approx(cosine_loss(RED, RED * 0.7 + GREEN * 0.3), abs=1e-5)
    assert loss.outcome.place[0, 0].tolist() == [15, 8, 23, 16] and loss.outcome.status == (("found",), ("found",))
    with_l1 = make(scene((RED, 4, 4, 10)), l1=10.0)
    pixels = (0.3 * (RED - GREEN)).abs().mean().item()
    assert with_l1(other).item() == pytest.approx(value[1].item() + 10 * pixels, abs=1e-4)


def test_without_a_detector_whole_pictures_are_compared():
    reference, image = torch.rand(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    loss = Subject(reference, network=Colours(), size=16, detector=None)
    assert loss(image).item() == pytest.approx(cosine_loss(image.mean((2, 3)), reference.mean((2, 3))), abs=1e-6)
    assert loss(reference).item() == pytest.approx(0, abs=1e-6)


def test_text_chooses_the_subject_in_the_reference():
    both = scene((RED, 2, 2, 8), (BLUE, 15, 15, 14))
    image = scene((BLUE, 5, 5, 12))
    assert make(both, text="blue")(image).item() == pytest.approx(0, abs=1e-6)
    assert make(both)(image).item() == pytest.approx(0, abs=1e-6)  # the largest
    assert make(both, text="red")(image).item() > 0.5
    with pytest.raises(NoSubjectFound, match=r"'green' was not found in reference 0 with a score of at least 0\.1"):
        make(both, text="green")


def test_several_references_are_averaged_or_the_nearest_counts():
    one, other = scene((RED, 4, 4, 10)), scene((RED * 0.75 + GREEN * 0.25, 4, 4, 10))
    both, image = [one, other], scene((RED, 10, 10, 10))
    assert make(both, same_subject=True, combine="best")(image).item() == pytest.approx(0, abs=1e-6)
    unit = [F.normalize(c.flatten(), dim=0) for c in (RED, RED * 0.75 + GREEN * 0.25)]
    expected = cosine_loss(RED, unit[0] + unit[1])
    assert make([both])(image).item() == pytest.approx(expected, abs=1e-5)
    assert len(make([both]).references()) == 2


def test_several_subjects_are_matched_and_no_box_is_used_twice():
    loss = make([scene((RED, 4, 4, 10)), scene((BLUE, 4, 4, 10))])
    assert loss.describe() == "subject (2 subjects)"
    value = loss(torch.cat([scene((BLUE, 2, 2, 10), (RED, 18, 18, 10)), scene((RED, 2, 2, 10))]))
    assert value[0].item() == pytest.approx(0, abs=1e-6)
    assert loss.outcome.place[0].tolist() == [[18, 18, 28, 28], [2, 2, 12, 12]]
    assert loss.outcome.status[1] == ("found", "skipped")
    assert value[1].item() == pytest.approx(2 / 2, abs=1e-6)  # a penalty of 2 for one of two subjects


def test_the_sum_of_distances_decides_not_the_first_subject():
    # Both subjects are nearest to the red square; the blue one loses less by taking the green.
    loss = make([scene((RED, 4, 4, 10)), scene((RED * 0.6 + BLUE * 0.4, 4, 4, 10))], text=["red", "red"])
    loss(scene((RED, 2, 2, 10), (BLUE, 18, 18, 10)))
    assert loss.outcome.place[0].tolist() == [[2, 2, 12, 12], [18, 18, 28, 28]]


def test_a_group_of_one_kind_has_a_box_for_each_subject():
    left = 40.0 * torch.arange(9).view(9, 1)
    boxes = torch.cat([left, left * 0, left + 30, left * 0 + 30], dim=1)
    for subjects in (2, 4, 6):
        assert candidates(boxes, torch.full((subjects, 9), 0.6), 0.2, 4.0) == [*range(9)]
    assert candidates(boxes, torch.full((4, 9), 0.6), 0.2, 4.0, each=3) == [0, 1, 2]


def test_candidates_and_assignment():
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 30, 10], [40, 0, 42, 10]], dtype=torch.float32)
    scores = torch.tensor([[0.9, 0.8, 0.2, 0.9], [0.1, 0.3, 0.5, 0.9]])
    assert overlap(boxes[0], boxes[1]) == pytest.approx(0.9) and overlap(boxes[0], boxes[2]) == 0
    assert candidates(boxes, scores, 0.2, 4.0) == [0, 2]
    assert candidates(boxes, scores, 0.2, 0.0) == [0, 3, 2] or candidates(boxes, scores, 0.2, 0.0) == [3, 0, 2]
    assert candidates(boxes, scores, 0.95, 0.0) == []
    cost = torch.tensor([[0.1, 0.2], [0.2, 0.9]])
    assert assign(cost, torch.ones(2, 2, dtype=torch.bool), extra="subject") == [(0, 1), (1, 0)]
    assert assign(cost, torch.tensor([[True, False], [False, False]]), extra="subject") == [(0, 0)]


# Missing subjects.


@pytest.mark.parametrize("policy", ["last", "center", "skip"])
def test_a_missing_subject_costs_more_than_any_other(policy):
    loss = make(scene((RED, 4, 4, 10)), on_missing=policy)
    empty, wrong = scene(grey=0.45).requires_grad_(), scene((GREEN, 4, 4, 10))
    value = loss(torch.cat([empty, wrong]))
    assert value[0] >= 2 > value[1]
    (gradient,) = torch.autograd.grad(value.sum(), empty)
    assert bool(gradient.any()) == (policy == "center")


def test_the_last_place_is_only_that_of_the_same_picture():
    loss = make(scene((RED, 4, 4, 10)), missing_penalty=1.0)
    before = scene((RED, 6, 6, 6))
    loss(before)
    faded = scene((torch.tensor([0.5, 0.5, 0.1]).view(3, 1, 1), 6, 6, 6))
    value = loss(faded)
    assert loss.outcome.status == (("last",),) and loss.outcome.place[0, 0].tolist() == [6, 6, 12, 12]
    colour = torch.tensor([0.5, 0.5, 0.1])
    assert value.item() == pytest.approx(1 + cosine_loss(RED, colour), abs=1e-5)
    assert loss(scene(grey=0.95)).item() == 1.0 and loss.outcome.status == (("skipped",),)
    loss(before)
    loss.forget()
    assert loss(faded).item() == 1.0


def test_the_number_of_missing_subjects_is_a_loss_to_log():
    loss = make([scene((RED, 4, 4, 10)), scene((BLUE, 4, 4, 10))])
    images = torch.cat([scene((RED, 2, 2, 10), (BLUE, 18, 18, 10)), scene((RED, 2, 2, 10)), scene()])
    assert loss.missing(images).tolist() == [0, 1, 2] and loss.missing.name == "subject-missing"


def test_raise_names_picture_and_subject():
    with pytest.raises(NoSubjectFound, match="Subject 0 was not found in image 1"):
        make(scene((RED, 4, 4, 10)), on_missing="raise")(torch.cat([scene((RED, 4, 4, 10)), scene()]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"on_missing": "lost"}, "Got on_missing='lost'"),
        ({"combine": "sum"}, "Got combine='sum'"),
        ({"compat": "other"}, "Got compat='other'"),
        ({"l1": -1.0}, "Got l1=-1.0"),
        ({"floor": 1.5}, "Got floor=1.5"),
        ({"text": ["a", "b"]}, r"Got text=\['a', 'b'\] for 1 subject\."),
        ({"detector": None, "text": "red"}, "detector=None"),
        ({"reference": []}, "no reference"),
        ({"reference": [["a.png"]], "same_subject": True}, "same_subject=True"),
        ({"reference": [scene(), scene()], "detector": None}, "2 subjects and detector=None"),
    ],
)
def test_options_that_disagree_are_refused(options, says):
    with pytest.raises(InvalidArgument, match=says):
        make(options.pop("reference", scene((RED, 4, 4, 10))), **options)


def test_a_bad_reference_is_refused():
    for reference, says in ((torch.rand(2, 3, 8, 8), "2 images"), ("nowhere.png", "no file")):
        with pytest.raises(InvalidImage, match=says):
            make(reference)


CONFORMANCE = torch.cat([scene((RED * 0.8 + 0.1, 6, 6, 14)), scene((RED * 0.9, 12, 10, 12)), scene((RED, 4, 14, 16))])


def tiny_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def conforming(**options):
    return make(scene((RED * 0.7 + GREEN * 0.3, 4, 4, 12)), network=tiny_network(), size=16, **options)


@parametrize_loss(conforming, images=CONFORMANCE, name="subject")
def test_conforms_with_boxes(check):
    check()


@parametrize_loss(lambda: conforming(detector=None))
def test_conforms_with_whole_pictures(check):
    check()


@pytest.mark.parametrize("options", [{}, {"compat": "rectifid"}, {"combine": "best", "l1": 3.0}], ids=str)
def test_gradients_agree_with_finite_differences(options):
    loss = conforming(**options)
    image = CONFORMANCE[:1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(image).sum(), image)
    direction = gradient / gradient.norm()
    step = 0.02
    with torch.no_grad():
        slope = (loss(image + step * direction) - loss(image - step * direction)) / (2 * step)
    assert math.isclose(slope.item(), gradient.norm().item(), rel_tol=0.02)
