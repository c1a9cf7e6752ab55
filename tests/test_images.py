"""Images: what is read, what is refused, and what is written."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from guideflow import _pictures, images
from guideflow.errors import InvalidArgument, InvalidImage


@pytest.fixture
def picture():
    """Random colours, (1, 3, 20, 30)."""
    return torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(0))


def test_what_is_written_is_read_back_to_rounding(tmp_path, picture):
    path = images.save_image(tmp_path / "deep" / "a.png", picture)
    again = images.read_image(path)
    assert again.shape == picture.shape and again.dtype == torch.float32
    assert (again - picture).abs().max() <= 0.5 / 255 + 1e-6
    assert [p.name for p in path.parent.iterdir()] == ["a.png"], "no temporary file is left"


def test_metadata_travel_with_the_picture(tmp_path, picture):
    path = images.save_image(tmp_path / "a.png", picture, {"prompt": "a person — ☺", "seed": "3"})
    assert images.read_metadata(path) == {"prompt": "a person — ☺", "seed": "3"}


def test_a_failed_write_leaves_the_old_file(tmp_path, picture, monkeypatch):
    path = images.save_image(tmp_path / "a.png", picture)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        images.save_image(path, 1 - picture)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("size", "shape"), [(8, (8, 8)), ((10, 6), (10, 6))])
def test_size_crops_to_the_centre_and_resizes(tmp_path, size, shape):
    stripes = torch.zeros(1, 3, 20, 40)
    stripes[..., 10:30] = 1  # white centre, black sides
    path = images.save_image(tmp_path / "a.png", stripes)
    read = images.read_image(path, size=size)
    assert read.shape[-2:] == shape
    assert read[..., shape[1] // 2].min() > 0.99


def make_transparent(path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(path)


def make_transparent_palette(path):
    Image.new("P", (4, 4), 0).save(path, transparency=0)


def make_white_16_bit(path):
    Image.fromarray(np.full((4, 4), 65535, dtype=np.uint16)).save(path)


def make_white_grey(path):
    Image.new("L", (4, 4), 255).save(path)


def make_white_grey_alpha(path):
    Image.new("LA", (4, 4), (0, 0)).save(path)


def make_white_bits(path):
    Image.new("1", (4, 4), 1).save(path)


@pytest.mark.parametrize(
    "make",
    [
        make_transparent,
        make_transparent_palette,
        make_white_16_bit,
        make_white_grey,
        make_white_grey_alpha,
        make_white_bits,
    ],
)
def test_every_mode_becomes_rgb(tmp_path, make):
    make(tmp_path / "a.png")
    read = images.read_image(tmp_path / "a.png")
    assert read.shape == (1, 3, 4, 4)
    assert read.min() == 1


def test_half_grey_of_16_bits_stays_half_grey(tmp_path):
    Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16)).save(tmp_path / "a.png")
    assert images.read_image(tmp_path / "a.png").mean().item() == pytest.approx(0.5, abs=0.01)


def test_float_and_cmyk_pictures_are_read(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "a.tiff")
    assert images.read_image(tmp_path / "a.tiff").mean().item() == pytest.approx(0.5, abs=0.01)
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "b.jpg")
    assert images.read_image(tmp_path / "b.jpg").min() > 0.97


RAMP = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(64, 0)


@pytest.mark.parametrize(
    "values",
    [
        RAMP,
        RAMP * 1.02 - 0.01,
        np.where(np.arange(4096).reshape(64, 64) == 63, np.float32(40), RAMP),
        RAMP * 255,
        RAMP * 257,
        RAMP * 65535,
        np.where((RAMP > 0.5) & (np.arange(64) % 64 == 40), np.float32(np.nan), RAMP),
        np.where(np.arange(64) == 63, np.float32(np.inf), RAMP),
        np.where(np.arange(64) == 0, np.float32(-np.inf), RAMP),
    ],
    ids=["0..1", "overshoots", "a highlight", "0..255", "beyond 255", "0..65535", "nan", "inf", "-inf"],
)
def test_floating_point_values_end_at_1_255_or_65535(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "a.tif")
    read = images.read_image(tmp_path / "a.tif")
    assert read.mean().item() == pytest.approx(0.5, abs=0.02)
    known = torch.from_numpy(np.isfinite(values) & (values < values[0, 62]))
    off = (read[0, 0] - torch.from_numpy(RAMP))[known]
    assert off.abs().max() < 0.02


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_fewer_bits_in_16_are_told(tmp_path, bits):
    Image.fromarray((RAMP * (2**bits - 1)).round().astype(np.uint16)).save(tmp_path / "a.tif")
    if bits < 16:
        with pytest.warns(UserWarning, match=f"uses {bits} of them"):
            read = images.read_image(tmp_path / "a.tif")
    else:
        read = images.read_image(tmp_path / "a.tif")
    assert (read[0, 0] - torch.from_numpy(RAMP)).abs().max() < 2 / 255


@pytest.mark.parametrize("size", [(8192, 6144), (16320, 12240)])
def test_photographs_of_large_sensors_are_read(tmp_path, size):
    picture = Image.new("RGB", (size[0] // 16, size[1] // 16), "red")
    picture.paste("blue", (0, 0, size[0] // 32, size[1] // 16))
    picture.resize(size, Image.Resampling.NEAREST).save(tmp_path / "phone.jpg")
    read = images.read_image(tmp_path / "phone.jpg")
    height, width = read.shape[-2:]
    assert images.KEPT_PIXELS / 4 < height * width <= images.KEPT_PIXELS
    assert width / height == pytest.approx(4 / 3, rel=1e-3)
    assert read[0, 2, 5, 5] > 0.98 and read[0, 0, 5, -5] > 0.98


def test_large_pictures_of_other_formats_are_halved(tmp_path, monkeypatch):
    monkeypatch.setattr(_pictures, "KEPT_PIXELS", 100)
    for mode in ("RGB", "L", "P", "RGBA", "I;16"):
        Image.new(mode, (48, 16), 0).save(tmp_path / "a.png")
        assert images.read_image(tmp_path / "a.png").shape == (1, 3, 4, 12)


def test_what_is_read_closes_its_file(tmp_path, picture):
    path = images.save_image(tmp_path / "a.png", picture)
    opened = images.open_picture(path)
    file = opened.fp
    with opened:
        opened.load()
    assert file.closed


def test_half_characters_in_metadata_are_replaced(tmp_path, picture):
    path = images.save_image(tmp_path / "a.png", picture, {"prompt": "caf\udce9"})
    assert images.read_metadata(path) == {"prompt": "caf?"}


def test_metadata_of_damaged_files_are_read_or_refused(tmp_path, picture):
    whole = images.save_image(tmp_path / "a.png", picture, {"prompt": "x" * 100}).read_bytes()
    refused = 0
    for cut in range(1, len(whole), 11):
        (tmp_path / "a.png").write_bytes(whole[:cut] + b"\xff" * 30)
        try:
            assert set(images.read_metadata(tmp_path / "a.png")) <= {"prompt"}
        except InvalidImage:
            refused += 1
    assert refused > 5


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert images.read_image(tmp_path / "a.jpg").shape[-2:] == (8, 4)


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert images.read_image(tmp_path / "a.gif")[0, :, 0, 0].tolist() == [1, 0, 0]


def png_header(width, height):
    """A PNG that claims a size and holds nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def truncated(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no file"),
        (lambda path: path.mkdir(), "but a folder"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("hello"), "not an image"),
        (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not an image"),
        (truncated, "damaged or cut short"),
        (lambda path: path.write_bytes(png_header(11_000, 11_000)), "121 million"),
        (lambda path: path.write_bytes(png_header(100_000, 100_000)), "10000 million"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, make, says):
    path = tmp_path / "bad.png"
    make(path)
    with pytest.raises(InvalidImage, match=says) as caught:
        images.read_image(path)
    message = str(caught.value)
    assert "bad.png" in message and "\n" not in message and len(message) < 400


def test_a_huge_file_is_refused_before_it_is_opened(tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(_pictures.MAX_BYTES + 1)
    monkeypatch.setattr(_pictures, "open_picture", None)
    with pytest.raises(InvalidImage, match="at most 200 are read"):
        images.read_image(path)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (torch.rand(2, 3, 4, 4), "batch of 2"),
        (torch.rand(1, 1, 4, 4), "1 channels"),
        (torch.rand(1, 3, 4, 4) * 255, "range"),
        (torch.rand(4, 4), "shape"),
    ],
)
def test_only_one_picture_in_range_is_written(tmp_path, image, says):
    with pytest.raises(InvalidImage, match=says):
        images.save_image(tmp_path / "a.png", image)
    assert not list(tmp_path.iterdir())


def test_only_png_is_written(tmp_path, picture):
    with pytest.raises(InvalidArgument, match=r"ends in \.png"):
        images.save_image(tmp_path / "a.jpg", picture)


def test_pil_and_back(picture):
    again = images.from_pil(images.to_pil(picture[0]))
    assert torch.equal(again, (picture * 255).round() / 255)


def test_grid_places_every_picture():
    batch = torch.rand(5, 3, 4, 6)
    sheet = images.grid(batch, columns=3, padding=1)
    assert sheet.shape == (1, 3, 2 * 5 + 1, 3 * 7 + 1)
    assert torch.equal(sheet[0, :, 1:5, 1:7], batch[0])
    assert torch.equal(sheet[0, :, 6:10, 8:14], batch[4])
    assert sheet[0, :, 6:10, 15:21].min() == 1, "places without an image are white"
    assert images.grid(batch, padding=0).shape[-1] == 30


@pytest.mark.parametrize("bad", [{"columns": 0}, {"padding": -1}])
def test_grid_refuses_no_column_and_negative_padding(bad):
    with pytest.raises(InvalidArgument, match="Expected a whole number"):
        images.grid(torch.rand(2, 3, 4, 4), **bad)


def test_a_labelled_table_holds_each_image_in_its_place():
    pictures = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    sheet = images.labelled(pictures, ["one", "two", "three"], ["above", "below"], side=16)
    height, width = sheet.shape[-2:]
    for i, picture in enumerate(pictures):
        top = height - (2 - i // 3) * 16 - (1 - i // 3) * 6
        left = width - (3 - i % 3) * 16 - (2 - i % 3) * 6
        shown = sheet[0, :, top : top + 16 : 2, left : left + 16 : 2]
        torch.testing.assert_close(shown, picture, atol=0.5 / 255 + 1e-6, rtol=0)
    assert sheet[0, :, : height - 38, width - 60 :].min() < 0.5  # words above
    assert sheet[0, :, height - 38 :, : width - 60].min() < 0.5  # and beside
    for columns, rows in ((["one", "two"], ["a", "b"]), (["a"] * 4, []), ([], [])):
        with pytest.raises(InvalidArgument, match="Expected one for each place"):
            images.labelled(pictures, columns, rows)


def test_what_others_tell_pillow_changes_nothing(tmp_path, monkeypatch):
    images.save_image(tmp_path / "a.png", torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)))
    whole = images.read_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:6000])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert torch.equal(images.read_image(tmp_path / "a.png"), whole)
    for _ in range(2):
        with pytest.raises(InvalidImage, match="cut short"):
            images.read_image(tmp_path / "b.png")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
