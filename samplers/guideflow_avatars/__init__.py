"""The avatars world: a small text-to-image model of cartoon portraits with its recognisers, trained, real and offline.

Everything a first try needs ships inside this package: five few-step samplers in the ordinary diffusers layout, and
`avatars-identity`, a loss that pulls pictures towards the person of a reference portrait.
"""

from collections.abc import Mapping

import lazy_loader

from guideflow.registry import Entry, hookimpl
from guideflow_avatars.samplers import FAMILIES, LICENCE

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


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
            "guideflow_avatars.segmentation:avatars_segmentation",
            summary="Distance of an avatar's layout to a drawn one, or to that of a reference avatar",
            extra="segmentation",
            licence=LICENCE,
            needs=("layout or reference",),
            downloads=(),
        ),
        "avatars-style": Entry(
            "guideflow_avatars.style:avatars_style",
            summary="Distance to palette and texture of reference pictures",
            licence=LICENCE,
            needs=("reference",),
            downloads=(),
        ),
        "avatars-subject": Entry(
            "guideflow_avatars.subject:avatars_subject",
            summary="Distance to a reference avatar in features learnt without labels",
            extra="subject",
            licence=LICENCE,
            needs=("reference",),
            downloads=(),
        ),
    }
