"""Whether a reference can be a portrait: it shows something, and a head the right way up."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from guideflow.errors import InvalidImage
from guideflow.losses.vision import Preparation
from guideflow.losses.weights import read_weights
from guideflow.types import Image, PerImage

SIZE: Final = 128
PREPARATION: Final = Preparation((SIZE, SIZE), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop=True)
FILE: Final = "upright.safetensors"

# Of margins. `tools/avatars/upright.py --measure` says how often portraits of held-out people are below.
TURNED: Final = -4.0
UNSURE: Final = 0.3
_FLAT: Final = 2 / 255


class Upright:
    """Tells which way up a portrait is, by a linear map A on what the recogniser sees.

        s_j(x) = mean over k of (A h(x turned by k))_{j+k},   margin = s_0 - max(s_1, s_2, s_3)

    with h its pooled features and turns by quarters. What has no up and down has a margin of 0: one
    colour exactly, noise nearly.

    Arguments:
        network: The recogniser.
        folder: Where A is.
    """

    def __init__(self, network: nn.Module, folder: Path = Path(__file__).parent / "weights" / "identity") -> None:
        device = next(network.parameters()).device
        self._network = network
        self._map = read_weights(folder / FILE)["weight"].to(device)

    @torch.no_grad()
    def scores(self, images: Image) -> Tensor:
        """Return how well each of the four turns counter-clockwise explains the images, (B, 4)."""
        total = images.new_zeros(len(images), 4)
        for k in range(4):
            seen = features(self._network, torch.rot90(images, k, (2, 3)))
            total += (seen @ self._map.T).roll(-k, 1)
        return total / 4

    def margins(self, images: Image) -> PerImage:
        """Return by how much upright is likelier than the likeliest other turn."""
        scores = self.scores(images)
        return scores[:, 0] - scores[:, 1:].amax(1)

    def check(self, image: Tensor, name: str) -> None:
        """Refuse a reference (3, H, W) that cannot work, and warn of one that is unlikely to.

        Raises:
            InvalidImage: If it is of one colour, or clearly turned.
        """
        if (image.amax((1, 2)) - image.amin((1, 2))).max() <= _FLAT:
            height, width = image.shape[1:]
            raise InvalidImage(
                f"Got {name}, {width}x{height} pixels of one colour, in which nobody is to be seen. Give a portrait."
            )
        scores = self.scores(image[None].float())[0]
        turn = int(scores[1:].argmax()) + 1
        margin = float(scores[0] - scores[turn])
        lies = {1: "lies on its side", 2: "stands on its head", 3: "lies on its side"}[turn]
        cure = f"turn it by {({1: '90 degrees clockwise', 2: '180 degrees', 3: '90 degrees counter-clockwise'})[turn]}"
        if margin < TURNED:
            raise InvalidImage(
                f"Got {name}, which {lies}: the person would be taken for somebody else. Give it upright: {cure}."
            )
        if margin < -UNSURE:
            warnings.warn(
                f"It seems that {name} {lies}, or shows no portrait: the recogniser knows them upright only. If it is "
                f"one, {cure}.",
                stacklevel=3,
            )
        elif margin < UNSURE:
            warnings.warn(
                f"There seems to be no portrait in {name}: the recogniser knows drawn ones, upright and with the head "
                "in the middle. The likeness will be poor.",
                stacklevel=3,
            )


@torch.no_grad()
def features(network: Any, images: Image) -> Tensor:
    """Return the pooled features of the recogniser, (B, C)."""
    parts = [network.resnet(PREPARATION(one)).pooler_output.flatten(1) for one in images.split(64)]
    return torch.cat(parts)
