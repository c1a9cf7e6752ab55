"""The avatars world: a small text-to-image model of cartoon portraits with its recognisers, trained, real and offline.

Everything a first try needs ships inside this package: five few-step samplers in the ordinary diffusers layout, and
`avatars-identity`, a loss that pulls pictures towards the person of a reference portrait.
"""

from collections.abc import Mapping
from functools import partial

import lazy_loader

from guideflow.registry import Entry, hookimpl
from guideflow_avatars.bundled import PORTRAITS
from guideflow_avatars.samplers import FAMILIES, LICENCE
from guideflow_avatars.words import WORDS

DOMAIN = "cartoons"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


@hookimpl
def guideflow_samplers() -> Mapping[str, Entry]:
    """Samplers of the avatars world."""
    about = {"words": "\n".join(f"{name}: {', '.join(words)}" for name, words in WORDS.items())}
    return {name: family.entry(downloads=(), domain=DOMAIN, facts=about) for name, family in FAMILIES.items()}


@hookimpl
def guideflow_losses() -> Mapping[str, Entry]:
    """Losses of the avatars world."""
    bundled = partial(Entry, licence=LICENCE, downloads=(), pictures=PORTRAITS)
    return {
        "avatars-identity": bundled(
            "guideflow_avatars.identity:AvatarsIdentity",
            summary="Distance to the person in a reference avatar",
            extra="diffusers",
            needs=("reference",),
            domain=DOMAIN,
        ),
        "avatars-segmentation": bundled(
            "guideflow_avatars.segmentation:avatars_segmentation",
            summary="Distance to a drawn layout, or to a reference avatar's",
            extra="segmentation",
            needs=("layout or reference",),
        ),
        "avatars-style": bundled(
            "guideflow_avatars.style:avatars_style",
            summary="Distance to palette and texture of reference pictures",
            needs=("reference",),
        ),
        "avatars-subject": bundled(
            "guideflow_avatars.subject:avatars_subject",
            summary="Distance to a reference avatar in unlabelled features",
            extra="subject",
            needs=("reference",),
            domain=DOMAIN,
        ),
    }


@hookimpl
def guideflow_metrics() -> Mapping[str, Entry]:
    """Metrics of the avatars world, by networks that no loss uses."""
    bundled = partial(Entry, licence=LICENCE, downloads=())
    return {
        "avatars-identity-similarity": bundled(
            "guideflow_avatars.metrics:IdentitySimilarity",
            summary="Likeness to the person in the reference, by a recogniser that no loss uses",
            extra="segmentation",
            needs=("reference",),
        ),
        "avatars-prompt-accuracy": bundled(
            "guideflow_avatars.metrics:PromptAccuracy",
            summary="Share of what the prompt asks for that an attribute classifier sees",
            extra="segmentation",
            needs=("prompt",),
        ),
        "avatars-style-distance": bundled(
            "guideflow_avatars.metrics:StyleDistance",
            summary="Distance to the style of the reference, by a network that no loss uses",
            extra="segmentation",
            needs=("reference",),
        ),
        "avatars-iou": bundled(
            "guideflow_avatars.metrics:LayoutIou",
            summary="Overlap with the layout of the reference, by a network that no loss uses",
            extra="segmentation",
            needs=("reference",),
        ),
        "avatars-kid": bundled(
            "guideflow_avatars.metrics:avatars_kid",
            summary="Kernel distance of a set of avatars to real ones (KID)",
            extra="segmentation",
        ),
    }
