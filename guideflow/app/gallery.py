"""The people of the gallery."""

from pathlib import Path

from guideflow._require import require
from guideflow.errors import MissingExtra


def portraits() -> dict[str, Path]:
    """Return the bundled portraits by name; none where the avatars world is not installed."""
    try:
        avatars = require("guideflow_avatars", extra="diffusers")
    except MissingExtra:
        return {}
    return {name: avatars.portrait(name) for name in avatars.portraits()}
