"""Pictures about a solution: the labelled comparison, and the way there as an animation."""

from __future__ import annotations

import errno
import io
import os
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import torch
from torch import Tensor

from guideflow import provenance
from guideflow._files import write_whole
from guideflow._given import count
from guideflow._require import require
from guideflow._told import number
from guideflow.errors import InvalidArgument
from guideflow.images import to_pil

if TYPE_CHECKING:
    from PIL import Image as PILImage

_CELL, _GAP, _TEXT, _MOST = 320, 12, 17, 8
_INK, _FAINT = "#30343b", "#6b7280"


def are_pictures(images: Tensor) -> bool:
    """Tell whether a batch holds RGB images, as samplers of other things do not return them."""
    return images.dim() == 4 and images.shape[1] == 3 and min(images.shape) > 0


def comparison(solution: Any) -> PILImage.Image | None:
    """Draw reference, unguided and guided picture of each image in a row, with labels; None for what is no picture."""
    guided, before = solution.images, solution.history["loss"][0].tolist()
    if not are_pictures(guided):
        return None
    guided, unguided = (provenance.shown(one)[0] for one in (guided, solution.unguided))
    shown, references = range(min(len(guided), _MOST)), [one for one in solution.references if one.shape[0] == 3]
    heads = [*(["reference" if len(references) == 1 else "references"] if references else []), "unguided", "guided"]
    titles = list(dict.fromkeys(solution.prompts))
    width = len(heads) * (_CELL + _GAP) + _GAP
    above = wrap(titles[0], width // 9)[:3] if len(titles) == 1 and titles[0] else []
    lines = [wrap(solution.prompts[i], width // 9)[:2] if len(titles) > 1 else [] for i in shown]
    line = _TEXT + 6
    tops, top = [], _GAP + line * (1 + len(above))
    for each in lines:
        tops.append(top)
        top += _CELL + line * (1 + len(each)) + _GAP
    rest = len(guided) - len(shown)
    sheet, draw = _paper(width, top + (line if rest else 0))
    for j, text in enumerate(above):
        draw(_GAP, _GAP + j * line, text, _INK)
    for j, text in enumerate(heads):
        draw(_GAP + j * (_CELL + _GAP), _GAP + len(above) * line, text, _INK)
    for i, top_i in zip(shown, tops, strict=True):
        cells = [*([_mosaic(references)] if references else []), _fit(unguided[i]), _fit(guided[i])]
        for j, cell in enumerate(cells):
            sheet.paste(cell, (_GAP + j * (_CELL + _GAP), top_i))
        after = float(solution.loss[i])
        labels = [f"seed {solution.seeds[i]}", f"loss {number(before[i])} -> {number(after)}"]
        for j, text in enumerate(labels, start=len(heads) - 2):
            draw(_GAP + j * (_CELL + _GAP), top_i + _CELL + 4, text, _FAINT)
        for j, text in enumerate(lines[i], start=1):
            draw(_GAP, top_i + _CELL + 4 + j * line, text, _FAINT)
    if rest:
        draw(_GAP, top, f"and {rest} more", _FAINT)
    return cast("PILImage.Image", sheet)


def html(solution: Any, picture: bytes | None) -> str:
    """Write a picture and a table of the images for a notebook."""
    before, after = solution.history["loss"][0].tolist(), solution.loss.tolist()
    heads = "".join(f"<th>{name}</th>" for name in ("seed", "prompt", "loss at the start", "loss", "result"))
    rows = [
        (str(solution.seeds[i]), solution.prompts[i], number(before[i]), number(after[i]), result.value)
        for i, result in enumerate(solution.result)
    ]
    table = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    shown = f'<img src="data:image/png;base64,{b64encode(picture).decode()}">' if picture else ""
    return f"{shown}<table><tr>{heads}</tr>{table}</table>"


def film(frames: Sequence[Tensor], labels: Sequence[str]) -> list[PILImage.Image]:
    """Lay each batch of a sequence out in a row, with a label."""
    drawn = []
    for images, label in zip(frames, labels, strict=True):
        sheet, draw = _paper(min(len(images), _MOST) * (_CELL + _GAP) + _GAP, _CELL + 2 * _GAP + _TEXT + 4)
        for i, image in enumerate(provenance.shown(images[:_MOST])[0]):
            sheet.paste(_fit(image), (_GAP + i * (_CELL + _GAP), _GAP))
        draw(_GAP, _CELL + _GAP + 5, label, _INK)
        drawn.append(sheet)
    return drawn


def way(solution: Any, steps: int) -> list[Tensor]:
    """Roll out ever larger shares of the controls, and of the way that the noise has moved."""
    count("count", steps, low=2)
    problem, kept = solution.problem, solution.kept
    if problem is None:
        raise InvalidArgument(
            "The solution was loaded from disk, without its sampler. Give frames=recorder.values of a "
            "`gf.callbacks.Recorder`, or animate what `gf.resume` returns."
        )
    frames = []
    for share in torch.linspace(0, 1, steps).tolist():
        z0 = torch.lerp(problem.z0, kept.z0, share)
        frames.append(problem.rollout(z0, share * kept.controls, gradients=False).images)
    return frames


@dataclass(frozen=True, repr=False)
class Film:
    """A film in memory, which a notebook shows by itself.

    Arguments:
        gif: it as a GIF.
        pictures: how many there are.
        seconds: how long it takes, without the second that the last picture stays.
    """

    gif: bytes
    pictures: int
    seconds: float

    def _repr_html_(self) -> str:
        return f'<img alt="{self!r}" src="data:image/gif;base64,{b64encode(self.gif).decode()}">'

    def __repr__(self) -> str:
        return f"Film({self.pictures} pictures, {self.seconds:g} s, a GIF of {len(self.gif) / 1000:.0f} kB)"


def as_gif(pictures: Sequence[PILImage.Image], seconds: float) -> Film:
    """Make a GIF of pictures of one size; the last one stays for a second."""
    from PIL import Image

    each = max(20, round(1000 * seconds / len(pictures)))
    first, *others = [picture.quantize(128, dither=Image.Dither.NONE) for picture in pictures]
    times = [*[each] * len(others), 1000]
    first.save(content := io.BytesIO(), "GIF", save_all=True, append_images=others, duration=times, loop=0)
    return Film(content.getvalue(), len(pictures), seconds)


def write_film(path: Path, pictures: Sequence[PILImage.Image], seconds: float) -> Path:
    """Write pictures of one size as a GIF or an MP4; the last one stays for a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".gif":
        write_whole(path, as_gif(pictures, seconds).gif)
        return path
    if path.suffix.lower() != ".mp4":
        raise InvalidArgument(f"Got {path.name!r} to write to. Expected a name that ends in .gif or .mp4.")
    imageio, numpy = require("imageio", extra="video"), require("numpy", extra="video")
    rate = max(1.0, len(pictures) / seconds)
    partial = path.with_name(f".{path.stem}-{uuid4().hex}.part.mp4")
    try:
        with imageio.get_writer(partial, format="FFMPEG", fps=rate, codec="libx264", macro_block_size=2) as writer:
            for picture in [*pictures, *[pictures[-1]] * round(rate)]:
                writer.append_data(numpy.asarray(picture))
        if b"moov" not in partial.read_bytes():  # its table of contents, written last: ffmpeg fails in silence
            raise OSError(errno.ENOSPC, "the film could not be written to its end", str(path))
        os.replace(partial, path)
    except ImportError as error:  # imageio without its ffmpeg
        raise InvalidArgument("Writing .mp4 needs imageio's ffmpeg. Type: pip install 'guideflow[video]'") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _paper(width: int, height: int) -> tuple[Any, Any]:
    from PIL import Image, ImageDraw, ImageFont

    sheet = Image.new("RGB", (width + width % 2, height + height % 2), "white")  # videos have even sides
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT)

    def draw(left: int, top: int, text: str, colour: str) -> None:
        pen.text((left, top), text, fill=colour, font=font)

    return sheet, draw


def _fit(image: Tensor, side: int = _CELL) -> PILImage.Image:
    """Return an image as large as it can be in a square, in its middle; small ones are made larger."""
    from PIL import Image, ImageOps

    picture = to_pil(image.detach().float().nan_to_num().clamp(0, 1))
    return ImageOps.pad(picture, (side, side), method=Image.Resampling.LANCZOS, color="white")


def _mosaic(references: Sequence[Tensor]) -> PILImage.Image:
    """Lay up to nine references out in a square."""
    if len(references) == 1:
        return _fit(references[0])
    columns = 2 if len(references) <= 4 else 3
    sheet, side = _paper(_CELL, _CELL)[0], _CELL // columns
    for i, one in enumerate(references[: columns**2]):
        sheet.paste(_fit(one, side - 4), (i % columns * side, i // columns * side))
    return cast("PILImage.Image", sheet)
