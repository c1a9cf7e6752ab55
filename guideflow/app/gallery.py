"""The people of the gallery."""

import shutil
from pathlib import Path

from guideflow._require import require
from guideflow.errors import MissingExtra


def portraits(room: Path) -> dict[str, Path]:
    """Copy the bundled portraits to where the page may show them from, and return them by name.

    There are none where the avatars world is not installed.
    """
    try:
        avatars = require("guideflow_avatars", extra="diffusers")
    except MissingExtra:
        return {}
    folder = room / "gallery"
    folder.mkdir(exist_ok=True)
    return {name: Path(shutil.copy(avatars.portrait(name), folder / f"{name}.png")) for name in avatars.portraits()}
