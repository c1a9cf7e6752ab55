"""Read images safely, write them with what made them, and lay them out in grids.

Everywhere an image is a float tensor (1, 3, height, width) or (3, height, width), RGB in [0, 1].
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from guideflow._colours import tell
from guideflow._files import write_whole
from guideflow._given import as_place, as_size, as_texts, count, one_of
from guideflow._labels import table
from guideflow._levels import deep
from guideflow._pictures import KEPT_PIXELS as KEPT_PIXELS
from guideflow._pictures import as_path, as_rgb, check_file, check_pixels, halvings, small_enough, strictly, upright
from guideflow._pictures import open_picture as open_picture
from guideflow._told import said
from guideflow.errors import InvalidArgument, InvalidImage

if TYPE_CHECKING:
    from PIL import Image as PILImage

_RANGE_TOLERANCE: Final = 1e-3


def check_image(image: Tensor, *, what: str = "image") -> None:
    """Refuse anything but a batch of RGB images in [0, 1]; image losses call this on what they are given.

    Raises:
        InvalidImage: with the shape or range that was given and the cure.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point():
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise InvalidImage(f"Got {what} of type {kind}. Expected a float tensor; for 0..255 integers type `x / 255`.")
    if image.dim() != 4 or image.shape[1] != 3:
        shape = tuple(image.shape)
        cure, given = _cure(shape), f"with {shape[1]} channels, shape" if len(shape) == 4 else "of shape"
        raise InvalidImage(f"Got {what} {given} {shape}. Expected (batch, 3, height, width){cure and f': {cure}'}.")
    # What is not finite is not judged here. Both numbers are read at once, because each time waits for the device.
    finite = image.detach().float().nan_to_num(0.5, 0.5, 0.5)
    low, high = torch.stack(finite.aminmax()).tolist() if image.numel() else (0.0, 1.0)
    if low < -_RANGE_TOLERANCE or high > 1 + _RANGE_TOLERANCE:
        cure = "for [-1, 1] type `image / 2 + 0.5`, for 0..255 type `image / 255`"
        raise InvalidImage(f"Got {what} in the range [{low:.3g}, {high:.3g}]. Expected [0, 1]; {cure}.")


def _cure(shape: tuple[int, ...]) -> str:
    """Say what makes a batch of RGB images of what has another shape; empty if nothing is sure to."""
    one = "image" if len(shape) == 4 else "image[None]"
    first, _, last = (0, 0, 0, *shape)[-3:]
    if len(shape) == 2:
        return "for a grey image type `image.expand(1, 3, -1, -1)`"
    if len(shape) not in (3, 4):
        return ""
    if first == 3:
        return f"for a single image type `{one}`"
    if last == 3:
        return f"type `{one}.permute(0, 3, 1, 2)`"
    if first == 1:
        return f"type `{one}.expand(-1, 3, -1, -1)`"
    if first == 2:
        return f"for grey with transparency type `{one}[:, :1].expand(-1, 3, -1, -1)`"
    if first == 4:
        return f"to leave transparency out type `{one}[:, :3]`"
    if last in (1, 2):
        return f"for grey type `{one}[..., :1].permute(0, 3, 1, 2).expand(-1, 3, -1, -1)`"
    return f"to leave transparency out type `{one}[..., :3].permute(0, 3, 1, 2)`" if last == 4 else ""


def read_image(path: str | os.PathLike[str], size: int | tuple[int, int] | None = None) -> Tensor:
    """Read an image from a file that need not be trusted.

    The orientation tag is applied, transparency is laid over white, and grey, palette, 16-bit and CMYK images become
    RGB. Colours of another profile, such as the Display P3 of phones or Adobe RGB, become those of sRGB; so do
    those that a PNG without a profile declares (gAMA, cHRM), and the Adobe RGB of a camera's EXIF. Of an animation the
    first frame is read. Of floating-point values, which are meant to end at 1, or at 255, 65535 or between them as of
    10, 12 or 14 bits, what lies beyond is clipped and nan is black; a TIFF or PNG whose 16 bits hold fewer, but for a
    few single pixels, is read as of so many. What is clipped by far, or read as of fewer bits, is told in a warning.

    Arguments:
        path: An image in any format that Pillow reads.
        size: Side of a square, or (height, width). The image is cropped to its centre in that proportion, then
            resized. `None` keeps it as it is, up to `KEPT_PIXELS`.

    Returns:
        A float32 tensor (1, 3, height, width) in [0, 1].

    Raises:
        InvalidImage: If the file is missing, empty, truncated, too large or no image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = as_path(path)
    check_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns from its own limit on; ours is lower
        try:
            with strictly(), open_picture(path) as picture:
                check_pixels(picture, path)
                rgb, told = deep(small_enough(picture), lambda: open_picture(path))
                rgb = upright(rgb)
        except InvalidImage:
            raise
        except UnidentifiedImageError as error:
            raise InvalidImage(f"{path} is not an image that can be read. Give a PNG, JPEG or WebP file.") from error
        except Image.DecompressionBombError as error:
            raise InvalidImage(f"{path} has far too many pixels to be read. Give a smaller image.") from error
        except Exception as error:  # decoders raise many kinds on damaged files: SyntaxError, struct.error, ...
            why = " ".join(str(error).split()) or type(error).__name__
            raise InvalidImage(f"{path} is damaged or cut short ({why}). Save or download it again.") from error
    if told:
        tell(told)
    try:
        rgb = as_rgb(rgb)
    except InvalidImage as error:
        raise InvalidImage(f"{path}: {error}") from error
    rgb = rgb.reduce(halvings(rgb))
    if size is not None:
        height, width = as_size(size)
        rgb = ImageOps.fit(rgb, (width, height), method=Image.Resampling.LANCZOS)
    return _tensor(rgb)


def fit(image: str | Path | Tensor | PILImage.Image, size: int | tuple[int, int], how: str = "crop") -> Tensor:
    """Bring an image to a size of other proportions, as a start picture for `solve` or its mask.

    Arguments:
        image: A path, a Pillow image, or a tensor (3, H, W) or (batch, 3, H, W) in [0, 1].
        size: Side of a square, or (height, width).
        how: "crop" to the centre, or "pad" by drawing out the edges.

    Returns:
        (batch, 3, height, width) in [0, 1].

    Raises:
        InvalidImage: If it cannot be read.
        InvalidArgument: If the size or the word is unknown.
    """
    one_of("how", how, ("crop", "pad"))
    height, width = as_size(size)
    if isinstance(image, str | Path):
        image = read_image(image)
    images = image if isinstance(image, Tensor) else from_pil(image)
    images = images[None] if images.dim() == 3 else images
    check_image(images)
    scales = height / images.shape[2], width / images.shape[3]
    scale = max(scales) if how == "crop" else min(scales)
    inner = [max(1, round(side * scale)) for side in images.shape[2:]]
    images = F.interpolate(images, inner, mode="bicubic", antialias=True).clamp(0, 1)
    over = [inner[0] - height, inner[1] - width]
    top, left = (max(side, 0) // 2 for side in over)
    images = images[:, :, top : top + height, left : left + width]
    above, before = (max(-side, 0) // 2 for side in over)
    rest = before, width - images.shape[3] - before, above, height - images.shape[2] - above
    return F.pad(images, rest, mode="replicate")


def from_pil(picture: PILImage.Image) -> Tensor:
    """Turn a Pillow image of any mode into a float32 tensor (1, 3, height, width) in [0, 1].

    Transparency is laid over white.

    Raises:
        InvalidImage: If it is none.
    """
    from PIL import Image

    if not isinstance(picture, Image.Image):
        raise InvalidImage(
            f"Got a {type(picture).__name__} as a Pillow image. Expected one, as `PIL.Image.open` returns."
        )
    return _tensor(as_rgb(picture))


def _tensor(rgb: PILImage.Image) -> Tensor:
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].float().div_(255)


def to_pil(image: Tensor) -> PILImage.Image:
    """Turn one image, (1, 3, height, width) or (3, height, width) in [0, 1], into a Pillow image of 8 bits in mode RGB.

    Raises:
        InvalidImage: If the shape or the range is another.
    """
    from PIL import Image

    batch = image[None] if isinstance(image, Tensor) and image.dim() == 3 else image
    check_image(batch)
    if len(batch) != 1:
        raise InvalidImage(f"Got a batch of {len(batch)} images. Expected one; lay out several with `grid(images)`.")
    pixels = (batch[0].detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy()))


def save_image(
    path: str | os.PathLike[str],
    image: Tensor,
    metadata: Mapping[str, str] | None = None,
    finish: Callable[[bytes], bytes] | None = None,
) -> Path:
    """Write one image as a PNG, whole or not at all.

    Arguments:
        path: Where to; folders are made. The name must end in `.png`.
        image: (1, 3, height, width) or (3, height, width), in [0, 1].
        metadata: Text to keep in the file, by keyword: what made the image.
        finish: Takes the content of the file and returns what is written.

    Returns:
        The path.

    Raises:
        InvalidImage: If the image has another shape or range.
        InvalidArgument: If the name does not end in `.png`.
    """
    path = as_place("path", path, "image.png")
    if path.suffix.lower() != ".png":
        raise InvalidArgument(f"Got {path.name!r} to write to. Expected a name that ends in .png.")
    content = png(image, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content if finish is None else finish(content))
    return path


def png(image: Tensor, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return one image as the content of the PNG that `save_image` writes."""
    from PIL.PngImagePlugin import PngInfo

    picture, information = to_pil(image), PngInfo()
    texts = {} if metadata is None else metadata
    if not isinstance(texts, Mapping) or not all(isinstance(one, str) for pair in texts.items() for one in pair):
        raise InvalidArgument(f"Got metadata={said(metadata)}. Expected texts by name: {{'guideflow:seed': '0'}}.")
    for key, value in texts.items():
        # Beyond Latin-1 it falls back to iTXt, which has no half characters, as a command line may bring along.
        information.add_text(key, value.encode("utf-8", "replace").decode())
    picture.save(content := io.BytesIO(), format="PNG", pnginfo=information)
    return content.getvalue()


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the text that `save_image` kept in a PNG, by keyword; empty for an image without any."""
    path = as_path(path)
    check_file(path)
    try:
        with open_picture(path) as picture:
            if picture.format == "PNG":
                return {str(key): str(value) for key, value in getattr(picture, "text", {}).items()}
    except Exception as error:  # decoders raise many kinds on damaged files
        raise InvalidImage(f"{path} is not a PNG that can be read. Give one that `save_image` wrote.") from error
    raise InvalidImage(f"{path} is not a PNG. Give one that `save_image` wrote.")


def grid(images: Tensor, columns: int | None = None, padding: int = 2) -> Tensor:
    """Lay a batch out in rows on white.

    Arguments:
        images: (batch, 3, height, width) in [0, 1].
        columns: Images in a row; all in one row by default.
        padding: White pixels between images and around them.

    Returns:
        One image (1, 3, height, width).

    Raises:
        InvalidArgument: If there is no image, no column or a negative padding.
    """
    check_image(images)
    count("columns", len(images) if columns is None else columns)
    count("padding", padding, low=0)
    blank = images.new_ones(-len(images) % (columns := min(columns or len(images), len(images))), *images.shape[1:])
    framed = F.pad(torch.cat([images, blank]), (0, padding, 0, padding), value=1)
    sheet = framed.view(-1, columns, *framed.shape[1:]).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)[None]
    return F.pad(sheet, (padding, 0, padding, 0), value=1)


def labelled(images: Tensor, columns: Sequence[str], rows: Sequence[str] = (), side: int = 96) -> Tensor:
    """Lay a batch out as a table on white, with words above the columns and beside the rows.

        rows = torch.cat([reference, solution.unguided, solution.images])
        images.labelled(rows, ["reference", "unguided", "guided"])

    Arguments:
        images: (batch, 3, height, width) in [0, 1], row by row.
        columns: What stands above each column; as many images are in a row.
        rows: What stands beside each row; nothing by default.
        side: Images that are smaller are made larger, by a whole factor.

    Returns:
        One image (1, 3, height, width).

    Raises:
        InvalidArgument: If the images do not fill the table.
    """
    check_image(images)
    count("side", side)
    heads, sides = as_texts("columns", columns), as_texts("rows", rows)
    return from_pil(table([to_pil(image) for image in images], heads, sides, side))
