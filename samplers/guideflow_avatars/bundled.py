"""The reference portraits that ship with the avatars world."""

from pathlib import Path
from typing import Final

from guideflow._given import one_of

PORTRAITS: Final = Path(__file__).parent / "portraits"


def portraits() -> tuple[str, ...]:
    """Names of the bundled reference portraits: people that no network of this world was trained on."""
    return tuple(sorted(path.stem for path in PORTRAITS.glob("*.png")))


def portrait(name: str) -> Path:
    """Path of a bundled reference portrait.

    Arguments:
        name: One of `portraits()`.

    Returns:
        Path of a PNG, 128x128.

    Raises:
        InvalidArgument: If there is no portrait of that name.
    """
    one_of("name", name, portraits())
    return PORTRAITS / f"{name}.png"
