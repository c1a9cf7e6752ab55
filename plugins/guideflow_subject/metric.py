"""`subject-similarity`: likeness to an animal or a thing in a reference photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

from torch import Tensor, nn

from guideflow._require import require
from guideflow.errors import InvalidArgument, MissingWeights
from guideflow.losses.networks import freeze, from_transformers
from guideflow.losses.weights import one_line
from guideflow.metrics import Case, LossMetric
from guideflow_subject import JUDGE
from guideflow_subject.detector import Detector, OwlViT
from guideflow_subject.features import EXTRA
from guideflow_subject.loss import Subject


@final
class SubjectSimilarity(LossMetric):
    """Likeness of a picture to the subject in its reference: cosine of self-supervised features.

        m(x) = cos(f(crop(x)), f(crop(reference)))

    Without a detector whole pictures are compared, as DINO in the evaluation of DreamBooth does. With one, a picture in
    which the subject is not found has no number and counts as a miss.

    Arguments:
        network: Name on the Hub, folder, or a module from images (M, 3, size, size), normalised as ImageNet's, to
            embeddings (M, C). The loss `subject` guides by DINOv2: take another one.
        size: Side of the crops that the network sees.
        detector: Name on the Hub, folder, a `Detector`, or None.
        text: What the subject is, such as "a cat", to find it in the reference; only with a detector.
        floor: Score in [0, 1] under which nothing is taken for a subject.
        device: Where the networks run.

    Raises:
        InvalidArgument: If options disagree.
        MissingWeights: If networks are neither in the Hub's cache nor to be downloaded.

    Source: Caron et al. 2021 (DINO); Ruiz et al. 2023 (DreamBooth).
    """

    name = "subject-similarity"

    def __init__(
        self,
        *,
        network: str | Path | nn.Module = JUDGE,
        size: int = 224,
        detector: str | Path | Detector | None = None,
        text: str | None = None,
        floor: float = 0.1,
        device: str = "cpu",
    ) -> None:
        if text is not None and detector is None:
            raise InvalidArgument(f"Got text={text!r} and no detector, which would look for it. Leave text out.")
        made = network if isinstance(network, nn.Module) else load_judge(str(network))
        found = detector if detector is None or isinstance(detector, Detector) else OwlViT(str(detector))
        self._network, self._detector = freeze(made, device), found
        self._options: dict[str, Any] = {"size": size, "text": text, "floor": floor, "device": device}

    def make(self, case: Case) -> Subject:
        """Find and embed the subject of the reference."""
        return Subject(
            case.reference, network=self._network, detector=self._detector, on_missing="skip", **self._options
        )

    def values(self, loss: Any, images: Tensor) -> Tensor:
        """Return the likenesses."""
        return super().values(loss, images.to(self._options["device"]))

    def judges(self) -> nn.Module:
        """Return the features: the detector only says where to look."""
        return self._network


def load_judge(where: str) -> nn.Module:
    """Load a vision transformer of transformers; of DINO's without the pooling layer, which was never trained."""
    transformers = require("transformers", extra=EXTRA)
    try:
        kind = transformers.AutoConfig.from_pretrained(where, trust_remote_code=False).model_type
        options = {"add_pooling_layer": False} if kind == "vit" else {}
        return from_transformers("AutoModel", where, extra=EXTRA, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise MissingWeights(
            f"The network {where!r} cannot be loaded ({one_line(error, 300).rstrip('.')}): fetch it once with network "
            f"by `hf download {where}`, or give a folder that holds all of it: network='path/to/folder'."
        ) from error
