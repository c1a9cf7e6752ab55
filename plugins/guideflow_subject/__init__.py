"""`subject`: pull images towards an animal or a thing in photographs.

    loss = gf.load_loss("subject", reference="cat.jpg", text="a cat")

An open-vocabulary detector (OWL-ViT) finds the subject, self-supervised features (DINOv2) compare it with the
reference. Both are Apache-2.0.
"""

from collections.abc import Mapping

import lazy_loader

from guideflow.registry import Entry, hookimpl
from guideflow.registry.weights import Download

NETWORK = "facebook/dinov2-base"
"""The features that are compared."""

DETECTOR = "google/owlvit-base-patch32"
"""What finds the subjects."""

JUDGE = "facebook/dino-vits16"
"""The features that judge, as in DreamBooth's evaluation; those that guide are others."""

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


@hookimpl
def guideflow_losses() -> Mapping[str, Entry]:
    """The loss of this package."""
    return {
        "subject": Entry(
            "guideflow_subject.loss:Subject",
            summary="Distance to an animal or a thing in reference photographs",
            extra="subject",
            licence="Apache-2.0 (DINOv2, OWL-ViT)",
            needs=("reference",),
            downloads=(
                Download(NETWORK, ("model.safetensors",), 346e6),
                Download(DETECTOR, ("model.safetensors",), 613e6),
            ),
        )
    }


@hookimpl
def guideflow_metrics() -> Mapping[str, Entry]:
    """The metric of this package."""
    return {
        "subject-similarity": Entry(
            "guideflow_subject.metric:SubjectSimilarity",
            summary="Likeness to the animal or thing in the reference photograph, in features of DINO",
            extra="subject",
            licence="Apache-2.0 (DINO)",
            needs=("reference",),
            downloads=(Download(JUDGE, ("model.safetensors",), 87e6),),
        )
    }
