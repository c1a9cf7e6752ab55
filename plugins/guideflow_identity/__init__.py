"""`identity`: pull images towards the people in reference photographs.

    loss = gf.load_loss("identity", reference="me.jpg")

The default backend is public domain, ships with guideflow and works offline: dlib's face recognition network behind a
small detector and landmarks. `backend="arcface"` reads insightface's packs from your own folder.
"""

from collections.abc import Mapping
from pathlib import Path

import lazy_loader

from guideflow.registry import Entry, hookimpl

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def example() -> Path:
    """Return the path of a portrait to try things on: the astronaut Eileen Collins, 192x192 (NASA, public domain)."""
    return Path(__file__).parent / "eileen-collins.png"


@hookimpl
def guideflow_losses() -> Mapping[str, Entry]:
    """The loss of this package."""
    return {
        "identity": Entry(
            "guideflow_identity.loss:Identity",
            summary="Distance to the people in reference photographs",
            extra="face",
            licence="public domain and MIT (dlib); non-commercial research only (arcface, your own files)",
            needs=("reference", "face"),
            notice="For people who agreed to it. Saved pictures are marked as generated; see `guideflow inspect`.",
            downloads=(),
            domain="photographs",
            pictures=Path(__file__).parent,
        )
    }


@hookimpl
def guideflow_metrics() -> Mapping[str, Entry]:
    """The metric of this package."""
    return {
        "identity-similarity": Entry(
            "guideflow_identity.metric:IdentitySimilarity",
            summary="Likeness to the person in the reference photograph, by a recogniser that did not guide",
            extra="face",
            licence="public domain and MIT (dlib); non-commercial research only (arcface, your own files)",
            needs=("reference", "face"),
        )
    }
