"""The published networks whose features are taken for style."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from guideflow.errors import InvalidArgument
from guideflow.losses.networks import published_weights
from guideflow.losses.weights import read_weights

VGG_URL: Final = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
VGG_LAYERS: Final = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
"""Those of Gatys et al."""

_VGG_BLOCKS: Final = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512, 512, 512, 512))


class ClipTokens(nn.Module):
    """Patch tokens of blocks of a CLIP vision transformer, in front of the blocks that are not needed.

    Arguments:
        visual: open_clip's vision transformer.
        blocks: Numbers of the blocks whose outputs are taken, from 0.

    Raises:
        InvalidArgument: If it is no vision transformer or has no such block.
    """

    def __init__(self, visual: nn.Module, blocks: Sequence[int]) -> None:
        super().__init__()
        residual = getattr(getattr(visual, "transformer", None), "resblocks", None)
        if residual is None:
            raise InvalidArgument("The backend 'clip-gram' takes a vision transformer: type network='ViT-B-16'.")
        if not blocks or not all(isinstance(block, int) and 0 <= block < len(residual) for block in blocks):
            raise InvalidArgument(f"Got layers={list(blocks)!r}. Expected numbers of blocks, 0 to {len(residual) - 1}.")
        self.visual = visual
        self.blocks = sorted(set(blocks))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return (B, tokens, C) for each block; without the class token."""
        visual: Any = self.visual
        found = visual.forward_intermediates(
            image, indices=self.blocks, stop_early=True, intermediates_only=True, output_fmt="NLC"
        )
        return list(found["image_intermediates"])


class VggFeatures(nn.Module):
    """Features of VGG-19, up to the last layer that is wanted.

    Arguments:
        layers: Names such as "relu3_1".
        checkpoint: A file of torchvision's `vgg19` weights, `.pth` or `.safetensors`; by default torchvision's own,
            from the cache of torch.hub or downloaded to it.

    Raises:
        InvalidArgument: If there is no such layer, or the file holds no VGG-19.
        MissingWeights: If the weights are neither here nor to be had.
    """

    def __init__(self, layers: Sequence[str] = VGG_LAYERS, checkpoint: str | Path | None = None) -> None:
        super().__init__()
        names = [f"relu{block}_{i + 1}" for block, widths in enumerate(_VGG_BLOCKS, 1) for i in range(len(widths))]
        if not layers or (unknown := [layer for layer in layers if layer not in names]):
            given = f"layers={list(layers)!r}" if not layers else f"layer {unknown[0]!r}"
            raise InvalidArgument(f"Got {given}. Expected some of: {', '.join(names)}.")
        modules: list[nn.Module] = []
        places, channels = [], 3
        for widths in _VGG_BLOCKS:
            for width in widths:
                modules += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                places.append(len(modules) - 1)
                channels = width
            modules.append(nn.MaxPool2d(2))
        self.taken = [place for place, name in zip(places, names, strict=True) if name in layers]
        self.features = nn.Sequential(*modules[: self.taken[-1] + 1])
        state = published_weights(VGG_URL, 548) if checkpoint is None else read_weights(checkpoint)
        wanted = self.state_dict()
        if lacking := [key for key in wanted if key not in state or state[key].shape != wanted[key].shape]:
            raise InvalidArgument(f"{checkpoint} is not {VGG_URL}: {lacking[0]} is missing or of another shape.")
        self.float().load_state_dict({key: state[key] for key in wanted})

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return (B, C, h, w) for each layer, from low to high."""
        found = []
        for number, layer in enumerate(self.features):
            image = layer(image)
            if number in self.taken:
                found.append(image)
        return found
