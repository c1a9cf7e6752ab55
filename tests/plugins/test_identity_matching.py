"""Assignment of faces to people, by hand."""

import itertools

import pytest
import torch

from guideflow_identity.assign import assign, assign_in_order, candidates, inside, regions
from guideflow_identity.faces import Faces
from guideflow_identity.missing import central, taken

YES = torch.ones(9, 9, dtype=torch.bool)


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
