"""What a picture file tells about where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any

from guideflow._pictures import as_path
from guideflow.errors import InvalidImage, MissingExtra
from guideflow.images import open_picture, read_image, read_metadata
from guideflow.provenance import credentials, watermark


@dataclass(frozen=True)
class Inspection:
    """What a picture tells.

    Arguments:
        metadata: the text in it that guideflow wrote, by keyword; lost with the first conversion to another format.
        score: of the watermark, from -1 to 1; None if the library that finds it is not installed.
        credentials: the signed ones, or in words why there are none.
    """

    metadata: dict[str, str]
    score: float | None
    credentials: dict[str, Any] | str

    @property
    def watermark(self) -> bool:
        """Whether the watermark is found."""
        return self.score is not None and self.score >= watermark.FOUND


def inspect(path: str | PathLike[str]) -> Inspection:
    """Look for metadata, watermark and content credentials in a picture of any format, which need not be trusted.

    Raises:
        InvalidImage: if it cannot be read.
    """
    path = as_path(path)
    image = read_image(path)[0]
    with open_picture(path) as picture:
        form = picture.format
    try:
        text = read_metadata(path) if form == "PNG" else {}
    except InvalidImage:
        text = {}
    try:
        score = watermark.score(image)
    except MissingExtra:
        score = None
    metadata = {name.removeprefix("guideflow:"): value for name, value in text.items() if name.startswith("guideflow:")}
    return Inspection(metadata, score, credentials.read(path, form))
