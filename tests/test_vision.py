"""What losses that look through a network share: reading references, preparing images, freezing networks."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import guideflow as gf
import guideflow_avatars as avatars
from guideflow import images
from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.images import save_image
from guideflow.losses.needed import as_needed
from guideflow.losses.networks import freeze, precision
from guideflow.losses.vision import Preparation, given, read_images, resize

NOISE = torch.rand(2, 3, 12, 18, generator=torch.Generator().manual_seed(0))


def test_pictures_come_from_files_and_tensors_of_any_size(tmp_path):
    path = save_image(tmp_path / "a.png", NOISE[:1])
    pictures = read_images([path, str(path), NOISE[0, :, :5].half(), NOISE.double()])
    assert [one.shape[1:] for one in pictures] == [(12, 18)] * 2 + [(5, 18)] + [(12, 18)] * 2
    assert [one.dtype for one in pictures] == [torch.float32] * 3 + [torch.float64] * 2
    assert len(read_images(NOISE)) == 2 and len(read_images(NOISE[0])) == 1
    assert not read_images(NOISE.clone().requires_grad_())[0].requires_grad


@pytest.mark.parametrize("given", [[], NOISE * 2 - 1, NOISE[:, :1], "missing.png"])
def test_what_is_no_picture_is_refused(given):
    with pytest.raises(InvalidImage):
        read_images(given)


def test_pictures_of_the_right_size_are_only_normalised():
    prepare = Preparation((12, 18), mean=(0.5, 0.4, 0.3), std=(0.2, 0.5, 1.0))
    expected = (NOISE - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.5, 1.0]).view(3, 1, 1)
    torch.testing.assert_close(prepare(NOISE), expected)
    assert Preparation()(NOISE.bfloat16()).dtype == torch.float32
    assert Preparation()(NOISE, torch.float64).dtype == torch.float64


def test_a_plain_picture_stays_plain_whatever_the_size_and_a_ramp_a_ramp():
    plain = torch.full((1, 3, 12, 18), 0.3)
    ramp = torch.linspace(0, 1, 37).expand(1, 3, 19, 37)
    for interpolation in ("bilinear", "bicubic"):
        for crop in (False, True):
            for size in ((5, 5), (40, 20)):
                torch.testing.assert_close(resize(plain, size, interpolation, crop), plain.new_full((1, 3, *size), 0.3))
        middle = resize(ramp, (19, 19), interpolation, crop=True)
        torch.testing.assert_close(middle, ramp[..., 9:28])  # cropped to the middle, nothing stretched
        assert (resize(ramp, (9, 11), interpolation).diff(dim=-1) > 0).all()


def test_shrinking_does_not_alias():
    stripes = (torch.arange(64) % 2).float().expand(1, 3, 64, 64)
    assert (resize(stripes, (16, 16)) - 0.5).abs().max() < 0.1


def test_changes_are_checked():
    changed = replace(Preparation(), **given(8, [0.1] * 3, [0.2] * 3))
    assert changed == Preparation((8, 8), (0.1,) * 3, (0.2,) * 3)
    assert replace(changed, **given()) == changed
    for options in ({"size": 0}, {"size": (1, 2, 3)}, {"mean": [0.5]}, {"std": [1, 1, 0]}):
        with pytest.raises(InvalidArgument, match=next(iter(options))):
            given(**options)


def test_networks_are_frozen_in_float32_unless_they_are_in_float64():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    for dtype, expected in ((torch.float16, torch.float32), (torch.float64, torch.float64)):
        frozen = freeze(network.to(dtype).train())
        assert precision(frozen) == expected and next(frozen.parameters()).dtype == expected
        assert not frozen.training and not any(one.requires_grad for one in frozen.parameters())


@pytest.mark.parametrize(
    ("sides", "kept"), [((1800, 2400), (512, 683)), ((500, 9000), (500, 9000)), ((600, 700), (600, 700))]
)
def test_of_photographs_so_much_is_kept_as_is_seen(sides, kept):
    photograph = torch.rand(3, *sides, generator=torch.Generator().manual_seed(0))
    (found,) = as_needed([photograph], 224)
    assert tuple(found.shape[1:]) == kept and (found is photograph) == (sides == kept)
    assert as_needed([found], 224)[0] is found, "what was shrunk stays as it is"
    assert as_needed([photograph], None)[0] is photograph and as_needed([photograph], 1200)[0] is photograph
    if found is not photograph:
        grey = found * 255
        assert torch.equal(grey.round() / 255, found) and found.mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", ["avatars-identity", "avatars-style", "avatars-subject", "avatars-segmentation"])
def test_what_is_kept_of_a_photograph_is_the_same_reference(name):
    large = torch.nn.functional.interpolate(
        images.read_image(avatars.portrait("ada")), (2200, 2200), mode="bicubic"
    ).clamp(0, 1)
    loss = gf.load_loss(name, reference=large)
    again = gf.load_loss(name, reference=loss.references()[0])
    picture = images.read_image(avatars.portrait("ben"))
    assert max(loss.references()[0].shape) <= 1024
    assert all(torch.equal(*both) for both in zip(loss.references(), again.references(), strict=True))
    assert torch.equal(loss(picture), again(picture))
