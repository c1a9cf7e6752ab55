"""`avatars-identity`: distance to the person in a reference portrait."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guideflow.images import check_image
from guideflow.losses.base import Loss
from guideflow.losses.needed import as_needed
from guideflow.losses.networks import freeze, from_transformers, precision
from guideflow.losses.vision import ImageSources, read_images
from guideflow.types import PerImage
from guideflow_avatars.upright import PREPARATION, Upright
from guideflow_avatars.upright import SIZE as SIZE

WEIGHTS = Path(__file__).parent / "weights"


@final
class AvatarsIdentity(Loss):
    """Distance between the person in an image and the person in one or several reference portraits.

        loss(x) = 1 - cos(f(x), r),    r = mean of f(reference) / norm(f(reference)) over the references

    f is a recogniser of cartoon people, trained with an additive angular margin: 0 is a perfect likeness, unrelated
    people are near 1.

    Arguments:
        reference: Path of a portrait, a tensor (1, 3, H, W) or (3, H, W) in [0, 1], or several of them that show the
            same person; of another size than the network's, the middle counts.
        network: Module from images (B, 3, 128, 128) in [-1, 1] to embeddings (B, C), or None for the bundled one.
        device: Where the network runs.

    Raises:
        InvalidImage: If a reference cannot be read, is no RGB image in [0, 1], or, looked at by the bundled network, is
            of one colour or lies on its side or head. Where that is not sure, or no portrait is to be seen, a warning
            says so.
    """

    name = "avatars-identity"

    def __init__(self, reference: ImageSources, network: nn.Module | None = None, device: str = "cpu") -> None:
        self._references = as_needed(read_images(reference), SIZE)
        self._network: Any = freeze(load_recogniser(WEIGHTS / "identity") if network is None else network, device)
        if network is None:
            upright, several = Upright(self._network), len(self._references) > 1
            for number, one in enumerate(self._references):
                upright.check(one.to(device), f"reference {number}" if several else "reference")
        with torch.no_grad():
            embeddings = torch.cat([self.embed(one[None].to(device)) for one in self._references])
        self._target = F.normalize(embeddings.mean(0), dim=0)

    def __call__(self, image: Tensor) -> PerImage:
        """Return 1 - cosine for each image, in [0, 2]."""
        return 1 - self.embed(image) @ self._target

    def embed(self, image: Tensor) -> Tensor:
        """Return unit-norm embeddings, (B, C)."""
        check_image(image)
        output = self._network(PREPARATION(image, precision(self._network)))
        return F.normalize(output if isinstance(output, Tensor) else output.logits, dim=1)


def load_recogniser(folder: Path) -> nn.Module:
    """Load an image classifier of transformers, in float32, from a local folder."""
    return from_transformers("AutoModelForImageClassification", folder, extra="diffusers", dtype=torch.float32)
