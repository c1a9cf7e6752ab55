"""What the numbers of a picture mean: colour profiles, floating-point values, and bits that are not all used."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin

import profiles
import sixteen
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


def dead(values, count=1, value=65535):
    """With single pixels that a sensor marks as damaged."""
    spoilt = values.copy()
    places = np.random.default_rng(0).permutation(np.stack(np.mgrid[1:8:2, 1:64:2], -1).reshape(-1, 2))[:count]
    spoilt[tuple(places.T)] = value
    return spoilt


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("count", [1, 5])
def test_a_few_dead_pixels_do_not_make_a_picture_one_of_16_bits(tmp_path, bits, count):
    values = dead((RAMP * (2**bits - 1)).astype(np.uint16), count)
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.warns(UserWarning, match=f"uses {bits} of them"):
        found = images.read_image(tmp_path / "a.tif")[0, 0].numpy()
    wanted = np.minimum(values / (2**bits - 1), 1)
    assert np.abs(found - wanted).max() < 0.003
    with pytest.warns(UserWarning, match=f"uses {bits} of them"), Image.open(tmp_path / "a.tif") as picture:
        assert np.array_equal(read_images(picture)[0][0].numpy(), found)


@pytest.mark.parametrize(
    "values",
    [
        (RAMP * 65535).astype(np.uint16),
        np.pad(np.full((3, 3), 65535, np.uint16), ((2, 3), (9, 52)), constant_values=900),  # a lamp in the dark
        dead((RAMP * 4095).astype(np.uint16), count=100, value=30000),  # grain
        dead(np.zeros((8, 64), np.uint16)),  # a star
    ],
)
@pytest.mark.filterwarnings("error")
def test_pictures_of_16_bits_stay_so(tmp_path, values):
    for name in ("a.tif", "a.png"):
        Image.fromarray(values).save(tmp_path / name)
        found = images.read_image(tmp_path / name)[0, 0].numpy()
        assert np.abs(found - values / 65535).max() < 0.003


@pytest.mark.parametrize(("bits", "spoilt"), [(8, 0), (12, 0), (12, 2), (14, 0)])
@pytest.mark.parametrize("how", ["II", "MM", "packed", "png"])
def test_colour_pictures_of_fewer_bits_keep_them(tmp_path, how, bits, spoilt):
    if how == "png" and bits == 14:
        pytest.skip("a PNG of 14 bits is none that would be black")
    colours = np.random.default_rng(0).integers(0, 2**bits, (8, 64, 3)).astype(np.uint16)
    colours[0, 0] = 2**bits - 1
    colours = dead(colours, spoilt)
    path = tmp_path / f"a.{'png' if how == 'png' else 'tif'}"
    path.write_bytes(sixteen.png(colours) if how == "png" else sixteen.tiff(colours, how))
    with pytest.warns(UserWarning, match=f"uses {bits} of them"):
        found = images.read_image(path)[0].permute(1, 2, 0).numpy()
    turned = np.rot90(colours, -1) if how != "png" else colours  # the tag of orientation that the writer sets
    assert np.abs(found - np.minimum(turned / (2**bits - 1), 1)).max() < 0.003


@pytest.mark.filterwarnings("error")
def test_colour_pictures_of_16_bits_stay_so(tmp_path):
    colours = np.random.default_rng(0).integers(0, 65536, (8, 64, 3)).astype(np.uint16)
    (tmp_path / "a.tif").write_bytes(sixteen.tiff(colours, "II"))
    found = images.read_image(tmp_path / "a.tif")[0].permute(1, 2, 0).numpy()
    assert np.abs(found - np.rot90(colours, -1) / 65535).max() < 0.005


ADOBE = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)


def declared(path, colour, gamma=None, places=None, srgb=False, mode="RGB"):
    """Write a PNG with chunks that say what its colours are."""
    chunks = PngImagePlugin.PngInfo()
    if srgb:
        chunks.add(b"sRGB", bytes(1))
    if gamma is not None:
        chunks.add(b"gAMA", struct.pack(">I", round(gamma * 100000)))
    if places is not None:
        chunks.add(b"cHRM", struct.pack(f">{len(places)}I", *(round(one * 100000) for one in places)))
    picture = Image.new("RGB", (8, 8), colour)
    (picture.quantize(4) if mode == "P" else picture.convert(mode)).save(path, pnginfo=chunks)
    return path


@pytest.mark.parametrize("colour", [SKIN, LEAF, (255, 255, 255), (0, 0, 0), (128, 128, 128)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.filterwarnings("error")
def test_colours_that_a_png_declares_become_those_of_srgb(tmp_path, colour, mode):
    path = declared(tmp_path / "a.png", colour, 256 / 563, ADOBE, mode=mode)
    wanted = profiles.in_srgb("Adobe RGB (1998)", colour)
    assert np.abs(mean(path) - wanted).max() < 1.5 / 255
    with Image.open(path) as picture:
        assert torch.equal(read_images(picture)[0], images.read_image(path)[0])


@pytest.mark.parametrize(
    ("options", "grey"),
    [
        # 55 / 255 of the light is 0.5 in sRGB; (128 / 255)^1.8 is 0.289 of the light, 0.575 in sRGB.
        ({"gamma": 1.0, "colour": (55, 55, 55)}, 0.503),
        ({"gamma": 1 / 1.8, "colour": (128, 128, 128)}, 0.575),
        ({"gamma": 1.0, "colour": (55, 55, 55), "mode": "L"}, 0.503),
        ({"gamma": 0.45455, "colour": (128, 128, 128)}, 128 / 255),
        ({"gamma": 0.45455, "places": SRGB, "colour": (128, 128, 128)}, 128 / 255),
        ({"gamma": 1.0, "srgb": True, "colour": (55, 55, 55)}, 55 / 255),
        ({"places": SRGB, "colour": (55, 55, 55)}, 55 / 255),
    ],
)
@pytest.mark.filterwarnings("error")
def test_the_gamma_that_a_png_declares(tmp_path, options, grey):
    assert np.abs(mean(declared(tmp_path / "a.png", **options)) - grey).max() < 1.5 / 255


@pytest.mark.parametrize(
    ("gamma", "places"), [(0.0, None), (7.0, None), (1.0, (0.3,) * 8), (1.0, SRGB[:6]), (None, (0.0,) * 8)]
)
def test_colours_that_cannot_be_are_told_and_left_out(tmp_path, gamma, places):
    with pytest.warns(UserWarning, match=r"declares colours that cannot be \(gAMA, cHRM\)"):
        assert np.allclose(mean(declared(tmp_path / "a.png", SKIN, gamma, places)) * 255, SKIN)


@pytest.mark.parametrize("end", ["jpg", "png", "webp"])
def test_the_adobe_rgb_of_a_camera(tmp_path, end):
    exif = Image.Exif()
    exif[0x112] = 1
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    Image.new("RGB", (16, 16), LEAF).save(tmp_path / f"a.{end}", exif=exif, quality=95)
    assert np.abs(mean(tmp_path / f"a.{end}") - profiles.in_srgb("Adobe RGB (1998)", LEAF)).max() < 4 / 255
    exif.get_ifd(0x8769)[0xA005] = {1: "R98"}  # which is the index of sRGB
    Image.new("RGB", (16, 16), LEAF).save(tmp_path / f"a.{end}", exif=exif, quality=95)
    assert np.abs(mean(tmp_path / f"a.{end}") * 255 - LEAF).max() < 4
    del exif.get_ifd(0x8769)[0xA005]
    Image.new("RGB", (16, 16), LEAF).save(tmp_path / f"a.{end}", exif=exif, quality=95)
    with pytest.warns(UserWarning, match="says that its colours are not those of sRGB"):
        assert np.abs(mean(tmp_path / f"a.{end}") * 255 - LEAF).max() < 4


def test_a_picture_of_no_numbers_is_refused_by_name(tmp_path):
    Image.fromarray(RAMP * np.nan).save(tmp_path / "a.tif")
    with pytest.raises(InvalidImage, match=r"a\.tif: The picture holds no number"):
        images.read_image(tmp_path / "a.tif")
