"""A table of pictures with words above its columns and beside its rows."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from guideflow.errors import InvalidArgument

if TYPE_CHECKING:
    from PIL import Image as PILImage

_GAP, _TEXT, _INK = 6, 13, "#30343b"


def table(pictures: Sequence[PILImage.Image], columns: Sequence[str], rows: Sequence[str], side: int) -> PILImage.Image:
    """Lay pictures of one size out row by row and write the labels; `images.labelled` says what holds."""
    if (
        not columns
        or not pictures
        or len(pictures) % len(columns)
        or len(rows) not in (0, len(pictures) // len(columns))
    ):
        raise InvalidArgument(
            f"Got {len(pictures)} images for {len(columns)} columns and {len(rows)} rows. Expected one for each place."
        )
    from PIL import Image, ImageDraw, ImageFont

    factor = max(1, -(-side // pictures[0].height))
    width, height = (factor * one for one in pictures[0].size)
    font = ImageFont.load_default(_TEXT)
    letters = max(4, width // 8)
    heads, sides = ([wrap(text, letters) for text in texts] for texts in (columns, rows))
    line = _TEXT + 4
    top = line * max(map(len, heads)) + _GAP
    left = max((round(font.getlength(part)) for one in sides for part in one), default=0) + (2 * _GAP if rows else 0)
    count = len(pictures) // len(columns)
    paper = Image.new(
        "RGB", (left + len(columns) * (width + _GAP) - _GAP, top + count * (height + _GAP) - _GAP), "white"
    )
    pen = ImageDraw.Draw(paper)

    def write(lines: Sequence[str], x: float, y: float, anchor: str) -> None:
        for i, text in enumerate(lines):
            pen.text((x, y + i * line), text, fill=_INK, font=font, anchor=anchor)

    for j, lines in enumerate(heads):
        write(lines, left + j * (width + _GAP) + width / 2, top - _GAP / 2 - line * len(lines), "mt")
    for i, lines in enumerate(sides):
        middle = top + i * (height + _GAP) + height / 2
        write(lines, left - _GAP, middle - line * len(lines) / 2, "rt")
    for i, picture in enumerate(pictures):
        row, column = divmod(i, len(columns))
        place = left + column * (width + _GAP), top + row * (height + _GAP)
        paper.paste(picture.resize((width, height), Image.Resampling.NEAREST), place)
    return paper
