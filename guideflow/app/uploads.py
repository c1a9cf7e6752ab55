"""Pictures that visitors drop: looked at before they are decoded, and kept as PNGs of a bounded size."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from guideflow import images
from guideflow._files import write_picture, write_whole
from guideflow._pictures import check_file
from guideflow.errors import GuideflowError, InvalidImage

if TYPE_CHECKING:
    from PIL import Image as PILImage

MOST_BYTES: Final = 40 * 2**20
"""A larger file is not taken."""

MOST_PIXELS: Final = 60_000_000
"""A larger picture is not decoded."""

LONGEST_SIDE: Final = 2048
"""A larger picture is kept smaller."""

MOST_PICTURES: Final = 8
"""More for one loss are not taken."""

_LAYOUT_SIDE: Final = 4096


def keep_picture(upload: str | Path, target: Path, room: Path) -> Path:
    """Keep a photograph as a PNG without what else the file holds, such as the place where it was taken.

    Arguments:
        upload: The file that was dropped.
        target: The PNG to write.
        room: The folder for what is dropped; no file elsewhere is read.

    Raises:
        InvalidImage: If it is no picture, damaged, or too large.
    """
    picture = images.to_pil(_read(upload, room))
    if max(picture.size) > LONGEST_SIDE:
        factor = LONGEST_SIDE / max(picture.size)
        width, height = (max(1, round(side * factor)) for side in picture.size)
        picture = picture.resize((width, height), _resampling().LANCZOS)
    write_picture(target, picture)
    return target


def keep_layout(upload: str | Path, target: Path, room: Path) -> Path:
    """Keep a drawn layout as it is: its colours and numbers are classes, so nothing is mixed or resized.

    Arguments and errors are those of `keep_picture`.
    """
    path = _inside(upload, room)
    _read(path, room)
    with images.open_picture(path) as picture:
        if max(picture.size) > _LAYOUT_SIDE:
            size = f"{picture.width} x {picture.height} pixels; at most {_LAYOUT_SIDE} a side are taken"
            raise InvalidImage(f"The layout {path.name} has {size}. Give a smaller one.")
        if picture.format == "PNG":
            write_whole(target, path.read_bytes())
        else:
            write_picture(target, picture.convert("RGB"))
    return target


def keep_drawing(drawing: PILImage.Image, target: Path) -> Path:
    """Keep what was drawn in the page; where nothing was, it stays transparent, which is free in a layout."""
    write_picture(target, drawing.convert("RGBA"))
    return target


def keep_start(photograph: PILImage.Image, painted: PILImage.Image | None, folder: Path) -> list[str]:
    """Keep a start photograph, and what was painted on it as a mask, white where it may change; returns what there is.

    Raises:
        InvalidImage: If the photograph is too large.
    """
    if photograph.width * photograph.height > MOST_PIXELS:
        raise InvalidImage(f"The start photograph has more than {MOST_PIXELS / 1e6:.0f} million pixels.")
    kept = images.to_pil(images.from_pil(photograph))
    kept.thumbnail((LONGEST_SIDE, LONGEST_SIDE), _resampling().LANCZOS)
    write_picture(folder / "start.png", kept)
    if painted is None or is_blank(painted):
        return ["start"]
    mask = painted.convert("RGBA").getchannel("A")
    # The brush lets the photograph shine through: half of how dense its strokes are is the edge of one.
    half = max(alpha for alpha, count in enumerate(mask.histogram()) if count) / 2
    mask = mask.resize(kept.size, _resampling().BILINEAR)
    write_picture(folder / "mask.png", mask.point([255 * (alpha > half) for alpha in range(256)]))
    return ["start", "mask"]


def fit_start(folder: Path, size: tuple[int, int]) -> None:
    """Crop what `keep_start` has kept to the proportions and the size (height, width) of a sampler's pictures."""
    from PIL import Image, ImageOps

    methods = {"start": Image.Resampling.LANCZOS, "mask": Image.Resampling.NEAREST}
    for name, method in methods.items():
        if (path := folder / f"{name}.png").is_file():
            with Image.open(path) as picture:
                fitted = ImageOps.fit(picture, (size[1], size[0]), method)
            write_picture(path, fitted)


def is_blank(drawing: PILImage.Image) -> bool:
    """Tell whether nothing was drawn: all is transparent."""
    return bool(drawing.convert("RGBA").getchannel("A").getextrema()[1] == 0)


def _read(upload: str | Path, room: Path) -> Any:
    path = _inside(upload, room)
    try:
        check_file(path)
        if (size := path.stat().st_size) > MOST_BYTES:
            raise InvalidImage(f"{path} has {size >> 20} MB; at most {MOST_BYTES >> 20} are taken.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with images.open_picture(path) as picture:
                    pixels = math.prod(picture.size)
            except GuideflowError:
                raise
            except Exception:  # `read_image` says what is wrong with it
                pixels = 0
        if pixels > MOST_PIXELS:
            raise InvalidImage(
                f"{path} has {pixels / 1e6:.0f} million pixels; at most {MOST_PIXELS / 1e6:.0f} million are taken."
            )
        return images.read_image(path)
    except InvalidImage as error:
        # Where the file lies is no matter of the visitor's, who knows it by its name.
        raise InvalidImage(str(error).replace(str(path), path.name)) from error


def _inside(upload: str | Path, room: Path) -> Path:
    path = Path(upload).resolve()
    if not path.is_relative_to(room.resolve()):
        raise InvalidImage("Only pictures that are dropped into the page are read.")
    return path


def _resampling() -> Any:
    from PIL import Image

    return Image.Resampling
