"""References of `avatars-identity` that cannot work are refused, unlikely ones told, and good ones taken in silence.

The thresholds were measured by `tools/avatars/upright.py --measure` on 600 portraits of 100 held-out people:

    position      refused    refused or told
    upright        0.0 %         0.5 %
    90 degrees    97.0 %       100 %
    180 degrees   86.8 %       100 %
    270 degrees   96.8 %       100 %

Portraits that are moved, zoomed and darkened: none refused, 8 % told. Of one colour all are told, of noise 94 %.
"""

import re
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import guideflow as gf
import guideflow_avatars as avatars
import guideflow_identity
from guideflow.errors import InvalidImage
from guideflow_avatars.identity import WEIGHTS, load_recogniser
from guideflow_avatars.upright import TURNED, UNSURE, Upright


@pytest.fixture(scope="module")
def upright():
    return Upright(load_recogniser(WEIGHTS / "identity").eval().requires_grad_(False))


@pytest.fixture(scope="module")
def portraits():
    return torch.cat([gf.images.read_image(avatars.portrait(name)) for name in avatars.portraits()])


@pytest.fixture(scope="module")
def drawing():
    """The drawing of the page Your own portrait, which is no render of this world."""
    page = (WEIGHTS.parents[2] / "docs" / "tutorials" / "your-own-portrait.md").read_text()
    code = re.search(r"```python\n(from PIL.*?)```", page, re.DOTALL)[1].replace('picture.save("me.png")', "")
    names = {"Image": Image, "ImageDraw": ImageDraw}
    exec(code, names)
    return gf.images.from_pil(names["picture"].resize((128, 128)))


def load(reference):
    return gf.load_loss("avatars-identity", reference=reference)


def test_bundled_portraits_and_an_own_drawing_are_taken_in_silence(portraits, drawing, upright):
    for one in (*portraits, *drawing, *portraits.flip(3), drawing[0, :, 8:120, 8:120]):
        load(one)
    assert upright.margins(torch.cat([portraits, drawing])).min() > UNSURE


def test_what_a_sampler_draws_is_taken_in_silence(upright):
    sampler = gf.load_sampler("avatars-instaflow")
    images = gf.solve(sampler, lambda x: x.mean((1, 2, 3)), seed=list(range(8)), max_iterations=0, candidates=1).images
    assert upright.margins(images).min() > UNSURE


@pytest.mark.parametrize("k", [1, 2, 3])
def test_what_is_turned_is_refused_or_told_with_the_turn_that_rights_it(portraits, drawing, upright, k):
    turned = torch.rot90(torch.cat([portraits, drawing]), k, (2, 3))
    margins = upright.margins(turned)
    assert margins.max() < -UNSURE and (margins < TURNED).float().mean() > 0.5
    cure = {1: "90 degrees clockwise", 2: "180 degrees", 3: "90 degrees counter-clockwise"}[k]
    clear, unclear = turned[margins.argmin()], turned[margins.argmax()]
    with pytest.raises(InvalidImage, match=f"Give it upright: turn it by {cure}"):
        load(clear)
    with pytest.raises(InvalidImage, match="reference 1, which"):
        load([portraits[0], clear])
    if margins.max() >= TURNED:
        with pytest.warns(UserWarning, match=f"turn it by {cure}"):
            load(unclear)


@pytest.mark.parametrize("size", [1, 128])
@pytest.mark.parametrize("colour", [(0, 0, 0), (1, 1, 1), (0.3, 0.5, 0.7)], ids=str)
def test_one_colour_is_refused(colour, size):
    with pytest.raises(InvalidImage, match=f"{size}x{size} pixels of one colour"):
        load(torch.tensor(colour).float().view(3, 1, 1).expand(3, size, size))


def test_what_is_no_portrait_is_told():
    noise = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))
    shapes = gf.load_sampler("toy-mixture").means[0] / 2 + 0.5
    for picture in (noise, shapes):
        with pytest.warns(UserWarning, match="portrait"):
            load(picture)


def test_a_network_of_the_users_is_asked_nothing():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 128 * 128, 4))
    reference = np.zeros((128, 128, 3), np.uint8)
    assert gf.load_loss("avatars-identity", reference=reference, network=network)(torch.rand(1, 3, 8, 8)).isfinite()


def test_looking_costs_little(portraits, upright):
    upright.check(portraits[0], "reference")
    began = time.process_time()
    for one in portraits:
        upright.check(one, "reference")
    assert (time.process_time() - began) / len(portraits) < 0.25, "about 0.03 s on a core that is alone"


def test_photographs_of_a_face_are_read():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(gf.images.read_image(guideflow_identity.example(), size=128))
