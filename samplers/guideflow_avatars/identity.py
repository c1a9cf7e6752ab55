"""`avatars-identity`: distance to the person in a reference portrait."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guideflow._require import require
from guideflow.errors import InvalidImage
from guideflow.images import check_image, read_image
from guideflow.losses.base import Loss
from guideflow.types import PerImage
from guideflow_diffusers.quiet import without_progress_bars

WEIGHTS = Path(__file__).parent / "weights"
SIZE = 64

Reference = str | Path | Tensor


class AvatarsIdentity(Loss):
    """Distance between the person in a picture and the person in one or several reference portraits.

        loss(x) = 1 - cos(f(x), r),    r = mean of f(reference) / norm(f(reference)) over the references

    f is a recogniser of cartoon people, trained with an additive angular margin: 0 is a perfect likeness, unrelated
    people are near 1.

    Arguments:
        reference: Path of a portrait, a picture tensor (1, 3, H, W) or (3, H, W) in [0, 1], or several of them that
            show the same person.
        network: Module from pictures (B, 3, 64, 64) in [-1, 1] to embeddings (B, C), or None for the bundled one.
        device: Where the network runs.

    Raises:
        InvalidImage: If a reference cannot be read or is no RGB picture in [0, 1].
    """

    name = "avatars-identity"

    def __init__(
        self,
        reference: Reference | Sequence[Reference],
        network: nn.Module | None = None,
        device: str = "cpu",
    ) -> None:
        """Read and embed the references."""
        several = reference if isinstance(reference, Sequence) and not isinstance(reference, str) else [reference]
        if not several:
            raise InvalidImage("Got an empty list of references. Expected at least one portrait of the person.")
        self._references = tuple(_picture(one).to(device) for one in several)
        network = load_recogniser(WEIGHTS / "identity") if network is None else network
        self._network = network.to(device).eval().requires_grad_(False)
        with torch.no_grad():
            embeddings = torch.cat([self.embed(one) for one in self._references])
        self._target = F.normalize(embeddings.mean(0), dim=0)

    def __call__(self, image: Tensor) -> PerImage:
        """Return 1 - cosine for each picture, in [0, 2]."""
        return 1 - self.embed(image) @ self._target

    def embed(self, image: Tensor) -> Tensor:
        """Return unit-norm embeddings, (B, C)."""
        check_image(image)
        image = image.float()
        if image.shape[-2:] != (SIZE, SIZE):
            image = F.interpolate(image, (SIZE, SIZE), mode="bilinear", antialias=True)
        output: Any = self._network(image * 2 - 1)
        return F.normalize(output if isinstance(output, Tensor) else output.logits, dim=1)

    def references(self) -> tuple[Tensor, ...]:
        """Return the reference pictures, (3, H, W) each."""
        return tuple(one[0] for one in self._references)


def load_recogniser(folder: Path) -> nn.Module:
    """Load an image classifier of transformers, in float32, from a local folder."""
    transformers = require("transformers", extra="diffusers")
    with without_progress_bars():
        network: nn.Module = transformers.AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)
    return network


def _picture(reference: Reference) -> Tensor:
    if isinstance(reference, Tensor):
        picture = reference[None] if reference.dim() == 3 else reference
        check_image(picture, what="reference")
        return picture.float()
    return read_image(reference, size=SIZE)
