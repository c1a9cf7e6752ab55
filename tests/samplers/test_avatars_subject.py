"""The subject loss of the avatars world with its real network."""

import pytest
import torch
from torch import nn

import guideflow as gf
import guideflow_avatars as avatars
from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.testing import check_loss
from guideflow_avatars import avatars_subject, judges
from guideflow_subject import Detector
from guideflow_subject.detector import Query

PROMPT = "a person with a yellow t-shirt, purple background"


class Halves(Detector):
    """Two people side by side."""

    def query(self, image, text):
        height, width = image.shape[-2:]
        return Query(torch.ones(1), torch.tensor([0.0, 0.0, width, height]), 1.0)

    def find(self, image, queries):
        height, width = image.shape[-2:]
        boxes = torch.tensor([[0.0, 0.0, width / 2, height], [width / 2, 0.0, width, height]])
        return boxes.expand(len(image), -1, -1), torch.ones(len(image), len(queries), 2)


@pytest.fixture(scope="module")
def people():
    return torch.cat([gf.images.read_image(avatars.portrait(name)) for name in avatars.portraits()])


def test_it_conforms(people):
    check_loss(lambda: avatars_subject(avatars.portrait("ada")), images=people[1:], name="avatars-subject")


def test_a_portrait_is_near_itself_and_its_mirror_image_and_far_from_others(people):
    for number, name in enumerate(avatars.portraits()):
        loss = avatars_subject(avatars.portrait(name))
        values = loss(people)
        assert values[number] < 1e-5
        others = torch.cat([values[:number], values[number + 1 :]])
        assert loss(people[number : number + 1].flip(-1)) < 0.5 * others.min()
        assert others.median() > 0.3


def test_a_change_of_background_matters_less_than_one_of_person(people):
    corner = people[:, :, :2, :2].mean((2, 3), keepdim=True)
    background = ((people - corner).abs().amax(1, keepdim=True) < 0.08).float()
    moved = torch.lerp(people, torch.tensor([0.2, 0.3, 0.5]).view(3, 1, 1), background)
    for number, name in enumerate(avatars.portraits()):
        values = avatars_subject(avatars.portrait(name))(moved)
        assert values.argmin() == number


@pytest.mark.slow
def test_guidance_brings_the_person_for_a_judge_that_did_not_steer():
    loss = gf.load_loss("avatars-subject", reference=avatars.portrait("ada"))
    sampler = gf.load_sampler("avatars-perflow")
    solution = gf.solve(sampler, loss, prompt=PROMPT, seed=[1, 2], max_iterations=10)
    assert (solution.loss < solution.history["loss"][0]).all()
    assert solution.loss.mean() < 0.5 * loss(solution.unguided).mean()  # a seed far from the person goes less far
    reference = gf.images.read_image(avatars.portrait("ada"))
    before, after = (judges.identity_similarity(x, reference) for x in (solution.unguided, solution.images))
    assert after.mean() > before.mean() + 0.2


def test_two_people_in_one_picture_are_told_apart_in_any_order(people):
    ada, ben = people[0:1], people[1:2]
    names = [avatars.portrait("ada"), avatars.portrait("ben")]
    loss = avatars_subject(names, detector=Halves())
    swapped = avatars_subject(names[::-1], detector=Halves())
    pictures = torch.cat([torch.cat([ada, ben], 3), torch.cat([ben, ada], 3), torch.cat([ada, people[2:3]], 3)])
    values = loss(pictures)
    assert (values[:2] < 1e-5).all() and values[2] > 0.1
    assert loss.outcome.place[:2, :, 0].tolist() == [[0, 128], [128, 0]]
    torch.testing.assert_close(swapped(pictures), values)


def test_options_pass_through(people):
    both = [people[0], people[1]]
    alone = torch.stack([avatars_subject(one)(people) for one in both])
    nearest = avatars_subject(both, same_subject=True, combine="best")
    torch.testing.assert_close(nearest(people), alone.amin(0))
    mean = avatars_subject(both, same_subject=True)
    assert len(mean.references()) == 2 and mean(people)[:2].max() < alone[:, :2].max()
    with_pixels = avatars_subject(both[0], l1=10.0)
    torch.testing.assert_close(
        with_pixels(people) - alone[0], 10 * (people - people[0]).abs().flatten(1).mean(1), atol=1e-4, rtol=1e-4
    )
    own = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert avatars_subject(both[0], network=own, size=32)(people[:1]) < 1e-6
    large = nn.functional.interpolate(people[:2], scale_factor=2, mode="bilinear")
    assert (avatars_subject(both[0])(large[:1]) < 0.1).all()


def test_mistakes_are_explained(people):
    with pytest.raises(InvalidArgument, match="detector=None"):
        avatars_subject([people[0], people[1]])
    with pytest.raises(InvalidArgument, match="combine"):
        avatars_subject(people[0], combine="worst")
    with pytest.raises(InvalidImage, match=r"nobody\.png"):
        avatars_subject("nobody.png")
