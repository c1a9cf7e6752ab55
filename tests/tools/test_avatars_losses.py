"""The recipes behind `avatars-subject` and `avatars-style`: views, their objective, and picture styles."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import guideflow as gf
import guideflow_avatars as avatars

TOOLS = Path(__file__).parents[2] / "tools" / "avatars"


@pytest.fixture
def tool(monkeypatch):
    """Import a script; the scripts import each other by plain names, so these are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(TOOLS))
    before = set(sys.modules)
    yield lambda name: __import__(name)
    for name in set(sys.modules) - before:
        if str(TOOLS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def people():
    return torch.cat([gf.images.read_image(avatars.portrait(name)) for name in avatars.portraits()])


def test_the_objective_is_the_cross_entropy_of_the_other_view(tool):
    module = tool("self_supervised")
    one, other = (F.normalize(torch.randn(3, 5, generator=generator()), dim=1) for _ in range(2))
    other = F.normalize(other + 0.1, dim=1)
    values = module.info_nce(one, other)
    for i in range(3):
        rivals = [one[i] @ other[j] for j in range(3)] + [one[i] @ one[j] for j in range(3) if j != i]
        rivals = torch.stack(rivals) / module.TEMPERATURE
        torch.testing.assert_close(values[i], rivals.logsumexp(0) - rivals[i])


def test_views_keep_the_head_and_change_background_and_place(tool, people):
    module = tool("self_supervised")
    painted = module.repaint(people, generator())
    corners = people[:, :, :2, :2].mean((2, 3))
    assert ((painted[:, :, :2, :2].mean((2, 3)) - corners).abs().amax(1) > 0.02).all()
    torch.testing.assert_close(painted[..., 64:80, 60:76], people[..., 64:80, 60:76])
    one, other = (module.view(people, generator().manual_seed(seed)) for seed in (1, 2))
    assert one.shape == people.shape and one.min() >= 0 and one.max() <= 1
    assert (one - other).flatten(1).norm(dim=1).min() > 1


def test_features_are_normalised_as_the_loss_normalises(tool, people):
    module = tool("self_supervised")
    torch.manual_seed(0)
    network = module.build().eval()
    loss = avatars.avatars_subject(people[0], network=network)
    described = module.describe(network, people)
    torch.testing.assert_close(loss(people), 1 - described @ described[0], atol=2e-3, rtol=1e-2)


def test_neighbours_find_people_and_count_no_one_as_their_own_neighbour(tool):
    module = tool("self_supervised")
    identity = torch.arange(20).repeat_interleave(6)
    found = module.neighbours(F.normalize(torch.eye(20)[identity] + 0.01, dim=1), identity)
    assert found.pop("nearest is the same person") == 1
    assert set(found) == set(module.IDENTITY) and all(0 <= value <= 1 for value in found.values())


def test_gradient_maps_run_from_dark_to_light(tool):
    styles = tool("styles")
    black_white = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    mapped = styles.gradient_map("201008", "806040", "f0e0c0")(black_white, generator())
    for picture, colour in zip(mapped, ("201008", "f0e0c0"), strict=True):
        wanted = torch.tensor(list(bytes.fromhex(colour))) / 255
        assert (picture.mean((1, 2)) - wanted).abs().max() < 0.15


def test_every_style_is_another_picture_of_the_same_size(tool, people):
    styles = tool("styles")
    every = styles.STYLES | styles.HELD_OUT
    same = people[:1].expand(len(every), -1, -1, -1)
    painted = styles.paint(same, generator(), every)
    assert painted.shape == same.shape and painted.isfinite().all()
    assert painted.min() >= 0 and painted.max() <= 1
    assert torch.equal(painted[0], people[0])
    assert torch.pdist(painted.flatten(1)).min() > 6


def test_the_distance_of_training_is_the_loss(tool, people):
    module = tool("style")

    class Colours(nn.Module):
        def forward(self, image):
            return [image, F.avg_pool2d(image, 2)]

    described = module.describe("guidance", Colours(), people)
    table = module.distances("guidance", described, described)
    loss = avatars.avatars_style(people[2], network=Colours(), size=None)
    torch.testing.assert_close(table[:, 2], loss(people), atol=1e-5, rtol=1e-3)
