"""`kid`: how far a set of pictures is from real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guideflow._given import as_place
from guideflow._process import own_numbers
from guideflow._require import require
from guideflow.errors import InvalidArgument
from guideflow.images import read_image
from guideflow.losses.networks import freeze, published_weights
from guideflow.metrics.base import Case, Measured, Metric, measured

URL = "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class KernelDistance(Metric):
    """Kernel distance (KID) between the pictures of a configuration and a set of real ones.

        KID = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
        k(a, b) = (a.b / d + 1)^3

    of d features, unbiased, so it may be below 0. Each picture gets the number KID + 2 (w_i - mean w) with

        w_i = mean_{j != i} k(x_i, x_j) - mean_j k(x_i, y_j),

    what the distance is to first order in its share of the set: their mean is the KID of the set, the interval of the
    mean is its interval, and the largest are the pictures that are least like real ones.

    Arguments:
        real: Folder of real pictures; None compares with the unguided pictures of the same jobs, which tells how far
            guidance moves the set.
        network: Module from images (B, 3, H, W) in [0, 1] to features (B, d), or None for torchvision's Inception v3,
            whose numbers differ from those of papers that use the network of FID.
        size: Side that pictures are brought to.
        device: Where the network runs.

    Raises:
        InvalidArgument: If there are no two pictures in the folder.
        MissingWeights: If Inception is not here and cannot be downloaded.

    Source: Binkowski et al., "Demystifying MMD GANs", 2018. Below some hundred pictures the interval is wide.
    """

    name = "kid"
    better: ClassVar[str] = "lower"
    of_set: ClassVar[bool] = True
    paired: ClassVar[bool] = False

    def __init__(
        self,
        real: str | Path | None = None,
        *,
        network: nn.Module | None = None,
        size: int = 299,
        device: str = "cpu",
    ) -> None:
        self._network: Any = freeze(inception() if network is None else network, device)
        self._size, self._device = size, device
        self.needs = ("unguided",) if real is None else ()  # type: ignore[misc]
        self._real = (
            None
            if real is None
            else self._features([read_image(path)[0] for path in pictures(as_place("real", real, "photos"))])
        )

    def __call__(self, cases: Sequence[Case]) -> Sequence[Measured]:
        """Measure all pictures of a configuration."""
        if len(cases) < 2:
            return [Measured(note="a set needs two pictures")] * len(cases)
        x = self._features(case.image for case in cases)
        y = self._features(case.unguided for case in cases) if self._real is None else self._real
        return [measured(value) for value in shares(x, y).tolist()]

    @torch.no_grad()
    def _features(self, images: Any) -> Tensor:
        found = []
        for image in images:  # one by one: sizes may differ
            x = image[None].to(self._device)
            if x.shape[-2:] != (self._size, self._size):
                x = F.interpolate(x, (self._size, self._size), mode="bilinear", antialias=True)
            found.append(self._network(x).flatten(1).double().cpu())
        return torch.cat(found)


def shares(x: Tensor, y: Tensor) -> Tensor:
    """Return the number of each row of x (M, d), whose mean is the unbiased KID between x and y (N, d)."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def others(k: Tensor) -> Tensor:
        return (k.sum(1) - k.diagonal()) / (len(k) - 1)

    within, across, real = others(kernel(x, x)), kernel(x, y).mean(1), others(kernel(y, y)).mean()
    distance = within.mean() + real - 2 * across.mean()
    witness = within - across
    return distance + 2 * (witness - witness.mean())


def pictures(folder: Path) -> list[Path]:
    """List the pictures of a folder by name, however deep."""
    found = sorted(path for path in folder.expanduser().rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(found) < 2:
        raise InvalidArgument(f"Got real={str(folder)!r} with {len(found)} pictures in it. Expected a folder of many.")
    return found


def inception() -> nn.Module:
    """Load torchvision's Inception v3 up to its 2048 pooled features; it normalises images in [0, 1] by itself."""
    models = require("torchvision.models", extra="subject")
    with own_numbers():
        network: Any = models.inception_v3(weights=None, init_weights=False, transform_input=False)
    network.float().load_state_dict(published_weights(URL, 109))
    network.fc = nn.Identity()
    return Normalised(network)


class Normalised(nn.Module):
    """A network of ImageNet on images in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Return the features (B, d)."""
        found: Tensor = self.network(image * 2 - 1)  # what this Inception was trained on: [-1, 1]
        return found
