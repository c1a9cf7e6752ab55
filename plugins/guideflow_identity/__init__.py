"""`identity`: pull pictures towards the people in reference photographs.

    loss = gf.load_loss("identity", reference="me.jpg")

The default backend is public domain, ships with guideflow and works offline: dlib's face recognition network behind a
small detector and landmarks. `backend="arcface"` reads insightface's packs from your own folder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from guideflow._lazy import lazy
from guideflow.registry import Entry, hookimpl

if TYPE_CHECKING:
    from guideflow_identity.faces import FaceBackend as FaceBackend
    from guideflow_identity.faces import Faces as Faces
    from guideflow_identity.loss import Identity as Identity
    from guideflow_identity.loss import Missing as Missing
    from guideflow_identity.loss import Outcome as Outcome
    from guideflow_identity.prompt import fill_subject as fill_subject
    from guideflow_identity.references import NoFaceFound as NoFaceFound

__getattr__, __dir__ = lazy(
    __name__,
    {
        "faces": ("FaceBackend", "Faces"),
        "loss": ("Identity", "Missing", "Outcome"),
        "prompt": ("fill_subject",),
        "references": ("NoFaceFound",),
    },
)


def example() -> Path:
    """Return the path of a portrait to try things on: the astronaut Eileen Collins, 192x192 (NASA, public domain)."""
    return Path(__file__).parent / "eileen-collins.png"


@hookimpl
def guideflow_losses() -> Mapping[str, Entry]:
    """The loss of this package."""
    return {
        "identity": Entry(
            "guideflow_identity.loss:Identity",
            summary="Distance to the people in reference photographs; weights included",
            extra="face",
            licence="public domain and MIT (dlib); non-commercial research only (arcface, your own files)",
            needs=("reference", "face"),
        )
    }
