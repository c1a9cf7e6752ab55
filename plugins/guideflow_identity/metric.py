"""`identity-similarity`: likeness to the person in a reference photograph, by a recogniser that did not guide."""

from __future__ import annotations

from pathlib import Path
from typing import final

from torch import Tensor, nn

from guideflow._devices import as_device
from guideflow._given import in_range, one_of
from guideflow.errors import InvalidArgument
from guideflow.metrics import Case, LossMetric
from guideflow_identity.faces import FaceBackend
from guideflow_identity.loss import Identity, load_backend


@final
class IdentitySimilarity(LossMetric):
    """Likeness of the face in a picture to the person in the reference.

        m(x) = 1 - d(f(align(x, face)), f(align(reference)))

    With "arcface" that is the cosine: about 0.4 to 0.7 for two photographs of a person, near 0 for two people. With
    "dlib" 1 minus the squared distance: above 0.8 for a person, -0.1 to 0.66 for two. A picture without a face has no
    number and counts as a miss.

    Arguments:
        backend: "dlib", "arcface" (insightface and its packs, your own files), or any `FaceBackend`. Take the one that
            did not guide; `evaluate` refuses the other.
        pack: For "arcface": name of a pack in insightface's own folder, or a folder that holds one.
        threshold: Score in [0, 1] from which a face counts.
        device: Where the networks run.

    Raises:
        InvalidArgument: If options disagree, or there is no such pack.
    """

    name = "identity-similarity"

    def __init__(
        self,
        *,
        backend: str | FaceBackend = "dlib",
        pack: str | Path | None = None,
        threshold: float = 0.5,
        device: str = "cpu",
    ) -> None:
        in_range("threshold", threshold, 0, 1, ends="(]")
        if pack is not None and backend != "arcface":
            raise InvalidArgument(
                f"Got pack={str(pack)!r}, which only backend='arcface' reads. Type backend='arcface'."
            )
        if not isinstance(backend, FaceBackend):
            one_of("backend", backend, ("dlib", "arcface"))
            backend = load_backend(backend, pack)
        self._backend: FaceBackend = backend.to(as_device(device)).eval().requires_grad_(False)
        self._threshold, self._device = threshold, device

    def make(self, case: Case) -> Identity:
        """Find and embed the person in the reference."""
        return Identity(
            case.reference,
            backend=self._backend,
            threshold=self._threshold,
            floor=self._threshold,
            on_missing="skip",
            device=self._device,
        )

    def values(self, loss: Identity, images: Tensor) -> Tensor:
        """Return the likenesses."""
        return super().values(loss, images.to(self._device))

    def judges(self) -> nn.Module:
        """Return the recogniser: the detector only says where to look."""
        recogniser = getattr(self._backend, "recogniser", None)
        return recogniser if isinstance(recogniser, nn.Module) else self._backend
