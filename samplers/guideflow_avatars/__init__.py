"""The avatars world: a small text-to-image model of cartoon portraits with its recognisers, trained, real and offline.

Everything a first try needs ships inside this package: five few-step samplers in the ordinary diffusers layout, and
`avatars-identity`, a loss that pulls pictures towards the person of a reference portrait.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from guideflow._lazy import lazy
from guideflow.errors import InvalidArgument
from guideflow.registry import Entry, hookimpl
from guideflow_avatars.samplers import BASE as BASE
from guideflow_avatars.samplers import FAMILIES, LICENCE

if TYPE_CHECKING:
    from guideflow_avatars.identity import AvatarsIdentity as AvatarsIdentity
    from guideflow_avatars.segmentation import AvatarsSegmentation as AvatarsSegmentation
    from guideflow_avatars.style import AvatarsStyle as AvatarsStyle
    from guideflow_avatars.subject import AvatarsSubject as AvatarsSubject

__getattr__, __dir__ = lazy(
    __name__,
    {
        "identity": ("AvatarsIdentity",),
        "segmentation": ("AvatarsSegmentation",),
        "style": ("AvatarsStyle",),
        "subject": ("AvatarsSubject",),
    },
)

HERE = Path(__file__).parent


def portraits() -> tuple[str, ...]:
    """Names of the bundled reference portraits: people that no network of this world was trained on."""
    return tuple(sorted(path.stem for path in (HERE / "portraits").glob("*.png")))


def portrait(name: str) -> Path:
    """Path of a bundled reference portrait.

    Arguments:
        name: One of `portraits()`.

    Returns:
        Path of a PNG, 64x64.

    Raises:
        InvalidArgument: If there is no portrait of that name.
    """
    if name not in portraits():
        raise InvalidArgument(f"There is no bundled portrait {name!r}. Expected one of: {', '.join(portraits())}.")
    return HERE / "portraits" / f"{name}.png"


@hookimpl
def guideflow_samplers() -> Mapping[str, Entry]:
    """Samplers of the avatars world."""
    return {name: family.entry(downloads=()) for name, family in FAMILIES.items()}


@hookimpl
def guideflow_losses() -> Mapping[str, Entry]:
    """Losses of the avatars world."""
    return {
        "avatars-identity": Entry(
            "guideflow_avatars.identity:AvatarsIdentity",
            summary="Distance to the person in a reference avatar",
            extra="diffusers",
            licence=LICENCE,
            needs=("reference",),
            downloads=(),
        ),
        "avatars-segmentation": Entry(
            "guideflow_avatars.segmentation:AvatarsSegmentation",
            summary="Distance of an avatar's layout to a drawn one, or to that of a reference avatar",
            extra="segmentation",
            licence=LICENCE,
            needs=("layout or reference",),
            downloads=(),
        ),
        "avatars-style": Entry(
            "guideflow_avatars.style:AvatarsStyle",
            summary="Distance to palette and texture of reference pictures",
            licence=LICENCE,
            needs=("reference",),
            downloads=(),
        ),
        "avatars-subject": Entry(
            "guideflow_avatars.subject:AvatarsSubject",
            summary="Distance to a reference avatar in features learnt without labels",
            extra="subject",
            licence=LICENCE,
            needs=("reference",),
            downloads=(),
        ),
    }
