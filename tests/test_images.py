"""Images: what is read, what is refused, and what is written."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from guideflow import images
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
        (lambda path: path.write_bytes(png_header(100_000, 100_000)), "far too many pixels"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, make, says):
    path = tmp_path / "bad.png"
    make(path)
    with pytest.raises(InvalidImage, match=says) as caught:
        images.read_image(path)
    message = str(caught.value)
    assert "bad.png" in message and "\n" not in message and len(message) < 400


def test_an_image_is_as_large_as_the_memory_allows(tmp_path, monkeypatch):
    path = tmp_path / "phone.jpg"
    Image.new("RGB", (8192, 6144), "red").save(path)
    assert images.read_image(path, size=16).shape == (1, 3, 16, 16)
    monkeypatch.setattr(images, "available_bytes", lambda device: 1e9)
    says = r"50 million pixels, which take 1\.6 GB to read; 1\.0 GB of memory are free"
    with pytest.raises(InvalidImage, match=says):
        images.read_image(path)


def ramp(scale=1.0, dtype=np.float32):
    return (np.linspace(0, 1, 64)[None].repeat(8, 0) * scale).astype(dtype)


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        (ramp(), 0.5),
        (ramp(1.02), 0.51),
        (ramp(255), 0.5),
        (ramp(260), 0.51),
        (ramp(65535), 0.5),
        (ramp(4095, np.uint16), 0.5),
        (ramp(65535, np.uint16), 0.5),
        (ramp(200, np.uint16), 0.0),  # no camera is that dark on all pixels
        (ramp(255, np.int32), 0.5),
        (ramp(1, np.int32), 1 / 64),
        (ramp(-1), 0.0),
    ],
    ids=str,
)
def test_the_white_of_wide_values_is_found(tmp_path, values, mean):
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert images.read_image(tmp_path / "a.tif").mean().item() == pytest.approx(mean, abs=0.01)


@pytest.mark.parametrize(("odd", "becomes"), [(np.nan, 0), (-np.inf, 0), (np.inf, 1)])
@pytest.mark.parametrize("scale", [1, 255])
def test_a_value_that_is_no_number_spoils_its_pixel_only(tmp_path, odd, becomes, scale):
    values = ramp(scale)
    values[0, 0] = odd
    Image.fromarray(values).save(tmp_path / "a.tif")
    read = images.read_image(tmp_path / "a.tif")[0, 0]
    assert read[0, 0] == becomes and read[1:].mean().item() == pytest.approx(0.5, abs=0.01)


def test_text_that_no_file_can_hold_is_written_as_it_can(tmp_path, picture):
    path = images.save_image(tmp_path / "a.png", picture, {"path": "caf\udce9 [/]", "null": "a\0b"})
    assert images.read_metadata(path)["path"] == "caf\\udce9 [/]"


@pytest.mark.parametrize("content", [png_header(100_000, 100_000), b"\x89PNG\r\n\x1a\n" + b"x" * 99, b"hello"])
def test_metadata_of_bad_files_are_refused_in_one_line(tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(InvalidImage, match=r"bad\.png"):
        images.read_metadata(tmp_path / "bad.png")


def test_a_huge_file_is_refused_before_it_is_opened(tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)
    monkeypatch.setattr(Image, "open", None)
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
