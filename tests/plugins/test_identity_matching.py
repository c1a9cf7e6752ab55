"""Assignment of faces to people, by hand."""

import itertools
import time
from functools import partial

import pytest
import torch

from guideflow.losses import matching
from guideflow_identity.faces import Faces, suppress
from guideflow_identity.matching import assign_in_order, candidates, central, inside, regions, taken

assign = partial(matching.assign, extra="face")

YES = torch.ones(9, 9, dtype=torch.bool)


@pytest.mark.parametrize(("faces", "doubles"), [(8, 12), (10, 20)])
def test_every_face_is_kept_however_many_boxes_it_has(faces, doubles):
    generator = torch.Generator().manual_seed(0)
    corners = 100.0 * torch.arange(faces).view(-1, 1, 1) + 4 * torch.rand(faces, doubles, 2, generator=generator)
    box = torch.cat([corners, corners + 50], -1).view(1, -1, 4)
    score = 0.5 + 0.4 * torch.rand(1, faces * doubles, generator=generator)
    image, place = suppress(score, box, floor=0.2, overlap=0.5)
    assert image.tolist() == [0] * faces
    best = score[0].view(faces, doubles).argmax(1) + doubles * torch.arange(faces)
    assert place.tolist() == sorted(best.tolist(), key=lambda k: -score[0, k])
    assert suppress(score, box, floor=0.95, overlap=0.5)[0].tolist() == []


def test_what_is_kept_of_a_crowd_is_what_torchvision_keeps_image_by_image():
    ops = pytest.importorskip("torchvision.ops")
    generator = torch.Generator().manual_seed(1)
    corner, size = (
        300 * torch.rand(3, 400, 2, generator=generator),
        20 + 80 * torch.rand(3, 400, 2, generator=generator),
    )
    box, score = torch.cat([corner, corner + size], -1), torch.rand(3, 400, generator=generator)
    image, place = suppress(score, box, floor=0.0, overlap=0.4)
    for i in range(3):
        assert place[image == i].tolist() == ops.nms(box[i], score[i], 0.4).tolist()


@pytest.mark.parametrize(("faces", "doubles", "ties"), [(50, 12, False), (200, 20, False), (3000, 1, True)])
def test_a_crowd_of_any_size_is_told_apart_in_time(faces, doubles, ties):
    ops = pytest.importorskip("torchvision.ops")
    generator = torch.Generator().manual_seed(2)
    corner = 9000 * torch.rand(faces, 1, 2, generator=generator) + 4 * torch.rand(
        faces, doubles, 2, generator=generator
    )
    box = torch.cat([corner, corner + 40 + 60 * torch.rand(faces, 1, 1, generator=generator)], -1).view(1, -1, 4)
    score = torch.rand(1, faces * doubles, generator=generator) if not ties else torch.full((1, faces), 0.8)
    began = time.process_time()
    place = suppress(score, box, floor=0.0, overlap=0.4)[1]
    assert time.process_time() - began < 3, "a step for each of them took ten"
    assert place.tolist() == ops.nms(box[0], score[0], 0.4).tolist()


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_a_box_that_is_none_hides_no_other(number):
    box = 100.0 * torch.arange(5).view(1, 5, 1) + torch.tensor([0.0, 0, 50, 50])
    score = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5]])
    box[0, 0], score[0, 4] = number, torch.nan
    assert suppress(score, box, floor=0.2, overlap=0.4)[1].tolist() == [1, 2, 3]


def test_areas_of_half_precision_do_not_overflow():
    box = torch.tensor([[[0.0, 0, 600, 600], [10, 0, 610, 600], [2000, 0, 2600, 600]]]).half()
    assert suppress(torch.tensor([[0.9, 0.8, 0.7]]).half(), box, floor=0.2, overlap=0.4)[1].tolist() == [0, 2]


def test_a_face_behind_another_or_small_within_its_box_is_kept():
    box = torch.tensor([[[0.0, 0, 100, 100], [55, 0, 155, 100], [10, 60, 40, 95], [5, 5, 98, 98]]])
    assert suppress(torch.tensor([[0.9, 0.8, 0.7, 0.6]]), box, floor=0.2, overlap=0.4)[1].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("faces", "people"), [(5, 2), (2, 5), (4, 4), (6, 3), (1, 3)])
def test_in_order_the_sum_is_the_least_of_all_ways(faces, people):
    generator = torch.Generator().manual_seed(10 * faces + people)
    for _ in range(20):
        place, distance = torch.rand(faces, generator=generator), torch.rand(faces, people, generator=generator)
        order, count = place.argsort().tolist(), min(faces, people)
        ways = itertools.product(itertools.combinations(order, count), itertools.combinations(range(people), count))
        best = min((list(zip(*way, strict=True)) for way in ways), key=lambda way: sum(distance[k, r] for k, r in way))
        assert assign_in_order(place.tolist(), distance, YES[:faces, :people]) == best


def test_a_row_of_many_people_is_matched_at_once():
    distance = torch.rand(200, 30, generator=torch.Generator().manual_seed(0))
    found = assign_in_order(range(200), distance, torch.ones(200, 30, dtype=torch.bool))
    assert [r for _, r in found] == [*range(30)] and sorted(k for k, _ in found) == [k for k, _ in found]


def test_the_sum_is_least_not_each_distance():
    distance = torch.tensor([[0.1, 0.2], [0.15, 0.9]])
    assert sorted(assign(distance, YES[:2, :2])) == [(0, 1), (1, 0)]


@pytest.mark.parametrize(("faces", "people"), [(2, 3), (3, 2), (4, 4), (1, 2)])
def test_the_assignment_is_the_best_of_all(faces, people):
    distance = torch.rand(faces, people, generator=torch.Generator().manual_seed(faces * people))
    found = assign(distance, YES[:faces, :people])
    assert len(found) == min(faces, people)
    assert len({k for k, _ in found}) == len({r for _, r in found}) == len(found)
    if faces >= people:
        ways = (zip(chosen, range(people), strict=True) for chosen in itertools.permutations(range(faces), people))
    else:
        ways = (zip(range(faces), chosen, strict=True) for chosen in itertools.permutations(range(people), faces))
    best = min(sum(float(distance[k, r]) for k, r in way) for way in ways)
    assert sum(float(distance[k, r]) for k, r in found) == pytest.approx(best)


def test_one_person_gets_the_nearest_face():
    assert assign(torch.tensor([[0.5], [0.2], [0.9]]), YES[:3, :1]) == [(1, 0)]


def test_forbidden_pairs_are_left_out():
    allowed = torch.tensor([[False, True], [False, True]])
    assert assign(torch.tensor([[0.1, 0.2], [0.1, 0.3]]), allowed) == [(0, 1)]
    assert assign(torch.tensor([[0.1]]), torch.tensor([[False]])) == []


def test_order_is_kept_even_if_it_costs():
    distance = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    assert assign_in_order([10.0, 20.0], distance, YES[:2, :2]) == [(0, 0), (1, 1)]
    assert assign_in_order([20.0, 10.0], distance, YES[:2, :2]) == [(1, 0), (0, 1)]


def test_order_with_more_faces_or_fewer():
    three = torch.tensor([[0.9, 0.9], [0.1, 0.9], [0.9, 0.1]])
    assert assign_in_order([0.0, 1.0, 2.0], three, YES[:3, :2]) == [(1, 0), (2, 1)]
    assert assign_in_order([0.0], torch.tensor([[0.9, 0.1]]), YES[:1, :2]) == [(0, 1)]


def test_sure_faces_come_first_and_doubtful_ones_only_make_up_the_number():
    yes = [[True]] * 4
    assert candidates([0.9, 0.8, 0.3, 0.2], yes, 0.5, people=1) == [0, 1]
    assert candidates([0.9, 0.3, 0.2], yes[:3], 0.5, people=2) == [0, 1]
    assert candidates([0.9, 0.8], [[False], [True]], 0.5, people=1) == [1]
    assert candidates([], [], 0.5, people=3) == []


def test_the_middle_of_a_face_decides_its_region():
    faces = Faces(torch.zeros(1), torch.ones(1), torch.tensor([[30.0, 0.0, 60.0, 20.0]]), torch.zeros(1, 5, 2))
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    assert inside(faces, [left, right], 100, 100).tolist() == [[True, False]]
    assert regions(None, 2) == [(0, 0, 1, 1)] * 2
    assert regions(left, 2) == [left, left]
    assert regions([left, right], 2) == [left, right]


def test_places_in_the_middle_stand_in_a_row():
    template = torch.tensor([[50.0, 50.0], [0.0, 0.0]])
    first, second = (central(template, 100, r, 2, 80, 200) for r in range(2))
    assert first.tolist() == [[50, 40], [26, 16]]
    assert second.tolist() == [[150, 40], [126, 16]]
    assert not taken(first, [second])
    assert taken(first, [second, first + 3])
    assert not taken(first, [])
