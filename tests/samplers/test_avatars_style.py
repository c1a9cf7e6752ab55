"""The style loss of the avatars world with its real network."""

import sys

import pytest
import torch
from torch import nn

import guideflow as gf
import guideflow_avatars as avatars
from guideflow import registry
from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.testing import check_loss
from guideflow_avatars import avatars_style, judges
from guideflow_avatars.style import WEIGHTS, StyleFeatures, load_style_features
from guideflow_style import gram

EMBERS = ("2b0d0a", "8c1c13", "e2571e", "f6b26b")
MEADOW = ("14532d", "3f9142", "95d5a2", "ffe873")


def bands(colours, shift=0.0):
    """Wavy bands of some colours, (3, 128, 128)."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 128), torch.linspace(0, 1, 128), indexing="ij")
    rgb = torch.tensor([list(bytes.fromhex(colour)) for colour in colours]) / 255
    number = (9 * y + 0.7 * torch.sin(7 * x + 4 * y) + shift).floor().long() % len(rgb)
    return rgb[number].permute(2, 0, 1)


def sepia(image):
    dark, light = (torch.tensor(colour).view(3, 1, 1) for colour in ([0.2, 0.1, 0.05], [1.0, 0.9, 0.75]))
    return torch.lerp(dark, light, image.mean(-3, keepdim=True))


@pytest.fixture(scope="module")
def people():
    return torch.cat([gf.images.read_image(avatars.portrait(name)) for name in avatars.portraits()])


def test_it_conforms(people):
    check_loss(lambda: avatars_style(bands(EMBERS)), images=people, name="avatars-style")


def test_a_style_is_near_itself_whatever_is_shown(people):
    loss = avatars_style(sepia(people[0]))
    assert loss(sepia(people[:1])) < 1e-6
    same, other = loss(sepia(people[1:])), loss(people[1:])
    assert same.median() < 0.5 * other.median()
    paintings = avatars_style(bands(EMBERS))
    assert paintings(bands(EMBERS, 1.7)[None]) < 0.2 * paintings(bands(MEADOW)[None])


def test_the_judge_agrees_on_what_is_of_one_style(people):
    same = judges.style_distance(sepia(people[1:]), sepia(people[:1]))
    other = judges.style_distance(people[1:], sepia(people[:1]))
    assert same.median() < 0.5 * other.median()
    network = judges.network("style")
    assert type(network) is not StyleFeatures


@pytest.mark.slow
def test_guidance_takes_a_palette_over():
    painting = bands(EMBERS)
    loss = gf.load_loss("avatars-style", reference=painting)
    sampler = gf.load_sampler("avatars-perflow")
    solution = gf.solve(sampler, loss, prompt="a smiling person", seed=[0, 1])
    assert (solution.loss < solution.history["loss"][0]).all() and (solution.loss < 0.5 * loss(solution.unguided)).all()
    before, after = (judges.style_distance(images, painting[None]) for images in (solution.unguided, solution.images))
    assert (after < before).all() and after.mean() < before.mean() - 0.05


def test_options_pass_through(people):
    both = [bands(EMBERS), sepia(people[0])]
    nearest = avatars_style(both, combine="best")
    alone = torch.stack([avatars_style(one)(people) for one in both])
    torch.testing.assert_close(nearest(people), alone.amin(0))
    assert avatars_style(both)(people).ne(nearest(people)).all()
    assert len(nearest.references()) == 2
    finest = avatars_style(both[0], layers=[0])
    (found,) = finest.embed_style(people)
    assert found.shape == (len(people), 24, 24)
    large = torch.nn.functional.interpolate(people, scale_factor=4)
    torch.testing.assert_close(finest(large), finest(people), rtol=0.05, atol=1e-3)
    assert avatars_style(both[0], size=None)(large).shape == (len(people),)

    class Pixels(nn.Module):
        def forward(self, image):
            return image

    own = avatars_style(both[0], network=Pixels(), size=None)
    found, wanted = gram(people), gram(both[0][None])
    expected = (found - wanted).square().sum((1, 2)) / wanted.square().sum()
    torch.testing.assert_close(own(people), expected)


def test_the_network_is_loaded_from_its_folder(people):
    network = load_style_features(WEIGHTS / "style", layers=[2, 0])
    assert network.layers == (0, 2)
    fine, coarse = network(people)
    assert fine.shape[-2:] == (128, 128) and coarse.shape[-2:] == (32, 32)
    assert all(p.dtype == torch.float32 for p in network.parameters())


def test_it_needs_no_extra(monkeypatch, people):
    for name in ("diffusers", "open_clip", "scipy", "torchvision", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    assert gf.load_loss("avatars-style", reference=bands(EMBERS))(people).isfinite().all()
    assert not registry.find("loss", "avatars-style").entry.extra


def test_mistakes_are_explained():
    with pytest.raises(InvalidArgument, match=r"layers=\[3\].*\[0, 1, 2\]"):
        avatars_style(bands(EMBERS), layers=[3])
    with pytest.raises(InvalidArgument, match="Leave it out"):
        avatars_style(bands(EMBERS), layers=[0], network=nn.Identity())
    with pytest.raises(InvalidArgument, match="best"):
        avatars_style(bands(EMBERS), combine="worst")
    with pytest.raises(InvalidImage, match=r"nowhere\.png"):
        avatars_style("nowhere.png")
