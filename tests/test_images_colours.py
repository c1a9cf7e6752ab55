"""What the numbers of a picture mean: colour profiles, floating-point values, and bits that are not all used."""

import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

import profiles
from guideflow import images
from guideflow.errors import InvalidImage
from guideflow.losses.vision import read_images

SKIN, LEAF = (214, 160, 132), (40, 180, 60)
RAMP = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(8, 0)


def mean(picture):
    return images.read_image(picture)[0].mean((1, 2)).numpy()


@pytest.mark.parametrize("colour", [SKIN, LEAF, (255, 255, 255), (0, 0, 0), (128, 128, 128)])
@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB (1998)"])
def test_colours_of_a_profile_become_those_of_srgb(tmp_path, name, colour):
    Image.new("RGB", (16, 16), colour).save(tmp_path / "a.png", icc_profile=profiles.profile(name))
    wanted = profiles.in_srgb(name, colour)
    assert np.abs(mean(tmp_path / "a.png") - wanted).max() < 1.5 / 255
    with Image.open(tmp_path / "a.png") as picture:  # a picture of Pillow's is the same reference
        assert torch.equal(read_images(picture)[0], images.read_image(tmp_path / "a.png")[0])
        assert picture.info["icc_profile"]


def test_a_phones_photograph_is_turned_and_converted(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    options = {"exif": exif, "quality": 95, "icc_profile": profiles.profile("Display P3")}
    Image.new("RGB", (32, 16), SKIN).save(tmp_path / "a.jpg", **options)
    found = images.read_image(tmp_path / "a.jpg", size=(16, 8))
    assert found.shape == (1, 3, 16, 8)
    assert np.abs(found[0].mean((1, 2)).numpy() - profiles.in_srgb("Display P3", SKIN)).max() < 3 / 255


@pytest.mark.parametrize("mode", ["RGBA", "P", "RGB with a colour for none"])
def test_transparency_is_kept_beside_a_profile(tmp_path, mode):
    options = {"icc_profile": profiles.profile("Display P3")}
    if mode == "RGBA":
        picture = Image.new("RGBA", (8, 8), (*SKIN, 255))
        picture.putpixel((0, 0), (0, 0, 0, 0))
    else:
        picture = Image.new("RGB", (8, 8), SKIN)
        picture.putpixel((0, 0), (1, 2, 3))
        options["transparency"] = (1, 2, 3)
    if mode == "P":
        picture = picture.quantize(4)
        options["transparency"] = picture.getpixel((0, 0))
    picture.save(tmp_path / "a.png", **options)
    found = images.read_image(tmp_path / "a.png")[0]
    assert found[:, 0, 0].tolist() == [1, 1, 1]
    assert np.abs(found[:, 4, 4].numpy() - profiles.in_srgb("Display P3", SKIN)).max() < 3 / 255


def test_a_picture_in_srgb_keeps_its_numbers(tmp_path):
    picture = Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3))
    picture.save(tmp_path / "a.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    picture.save(tmp_path / "b.png")
    assert torch.equal(images.read_image(tmp_path / "a.png"), images.read_image(tmp_path / "b.png"))


@pytest.mark.parametrize("damage", ["cut", "garbage", "zeros"])
def test_a_damaged_profile_is_told_and_left_out(tmp_path, damage):
    whole = profiles.profile("Display P3")
    content = {"cut": whole[:200], "garbage": b"garbage" * 40, "zeros": bytes(500)}[damage]
    Image.new("RGB", (8, 8), SKIN).save(tmp_path / "a.png", icc_profile=content)
    with pytest.warns(UserWarning, match="colour profile of a picture cannot be used"):
        assert np.allclose(mean(tmp_path / "a.png") * 255, SKIN)


def test_a_profile_of_another_kind_of_picture_is_left_out(tmp_path):
    Image.new("L", (8, 8), 100).save(tmp_path / "a.png", icc_profile=profiles.profile("Display P3"))
    assert np.allclose(mean(tmp_path / "a.png") * 255, 100)


@pytest.mark.parametrize(
    ("values", "wanted", "told"),
    [
        (RAMP * 1.05, 0.52, None),
        (np.where(RAMP > 0.99, np.inf, RAMP), 0.5, None),
        (np.where(RAMP < 0.01, -np.inf, RAMP), 0.5, None),
        (RAMP * 3, 0.83, "goes up to 3; beyond 1 all is read as white"),
        (RAMP * 2 - 1, 0.25, "goes down to -1; below 0 all is read as black"),
        (RAMP * 255, 0.5, None),
        (RAMP * 4095, 0.5, None),
        (RAMP * 65535, 0.5, None),
        ((RAMP * 2**31 * 0.999).astype(np.int32), 0.5, None),
        ((RAMP * 1023).astype(np.uint16), 0.5, "16 bits uses 10 of them"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_white_is(tmp_path, values, wanted, told):
    Image.fromarray(values).save(tmp_path / "a.tif")
    if told is None:
        assert mean(tmp_path / "a.tif")[0] == pytest.approx(wanted, abs=0.01)
    else:
        with pytest.warns(UserWarning, match=told):
            assert mean(tmp_path / "a.tif")[0] == pytest.approx(wanted, abs=0.01)


def test_twelve_bits_in_a_png_and_a_grey_for_none(tmp_path):
    Image.fromarray((RAMP * 4095).astype(np.uint16)).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="uses 12 of them"):
        assert mean(tmp_path / "a.png")[0] == pytest.approx(0.5, abs=0.01)
    content = io.BytesIO()
    Image.fromarray(np.full((8, 8), 20000, np.uint16)).save(content, "PNG")
    clear = b"tRNS" + (20000).to_bytes(2, "big")
    whole, place = content.getvalue(), content.getvalue().index(b"IDAT") - 4
    chunk = (2).to_bytes(4, "big") + clear + zlib.crc32(clear).to_bytes(4, "big")
    (tmp_path / "b.png").write_bytes(whole[:place] + chunk + whole[place:])
    assert mean(tmp_path / "b.png").tolist() == [1, 1, 1]


def test_a_picture_of_no_numbers_is_refused_by_name(tmp_path):
    Image.fromarray(RAMP * np.nan).save(tmp_path / "a.tif")
    with pytest.raises(InvalidImage, match=r"a\.tif: The picture holds no number"):
        images.read_image(tmp_path / "a.tif")
