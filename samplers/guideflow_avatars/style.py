"""`avatars-style`: distance to the style of reference images, palette and texture, wherever things are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from guideflow.errors import InvalidArgument
from guideflow.losses.sharing import shared
from guideflow.losses.vision import ImageSources
from guideflow_avatars.identity import SIZE, WEIGHTS
from guideflow_style import Style

WIDTHS = ((24,), (48, 48), (96,))


class StyleFeatures(nn.Module):
    """Convolutions at full, half and quarter resolution; features are what each resolution ends with.

    Arguments:
        widths: Channels of the convolutions of each resolution.
        layers: Resolutions whose features are returned, from 0, the finest.
    """

    def __init__(self, widths: Sequence[Sequence[int]] = WIDTHS, layers: Sequence[int] = (0, 1, 2)) -> None:
        super().__init__()
        if not layers or not set(layers) <= set(range(len(widths))):
            raise InvalidArgument(f"Got layers={list(layers)!r}. Expected some of {list(range(len(widths)))}.")
        self.widths, self.layers = tuple(map(tuple, widths)), tuple(sorted(set(layers)))
        channels, self.stages = 3, nn.ModuleList()
        for stage in widths:
            convolutions = nn.ModuleList()
            for width in stage:
                convolutions.append(nn.Conv2d(channels, width, 3, padding=1, padding_mode="replicate"))
                channels = width
            self.stages.append(convolutions)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return maps (B, C, H / 2^l, W / 2^l) of each layer l for images (B, 3, H, W) in [0, 1]."""
        x, found = image * 2 - 1, []
        for number, stage in enumerate(self.stages[: self.layers[-1] + 1]):
            x = x if number == 0 else F.avg_pool2d(x, 2)
            for convolution in stage:  # type: ignore[attr-defined]
                x = F.leaky_relu(convolution(x), 0.1)
            if number in self.layers:
                found.append(x)
        return found


@shared
def load_style_features(folder: Path, layers: Sequence[int] = (0, 1, 2)) -> StyleFeatures:
    """Load the network from a folder of `config.json` and `model.safetensors`, in float32."""
    from safetensors.torch import load_file

    network = StyleFeatures(json.loads((folder / "config.json").read_text())["widths"], layers)
    network.float().load_state_dict(load_file(folder / "model.safetensors"))
    return network


def avatars_style(
    reference: ImageSources,
    *,
    combine: str = "mean",
    layers: Sequence[int] | None = None,
    network: nn.Module | None = None,
    size: int | Sequence[int] | None = SIZE,
    device: str = "cpu",
) -> Style:
    """Distance between the style of a portrait and that of reference images: palette and texture, not what is shown.

        loss(x) = mean over layers l of  norm(G_l(x) - G_l(reference))^2 / norm(G_l(reference))^2
        G_l = F_l^T F_l / places

    `style` with Gram matrices of a small network that learnt to tell styles apart whatever they show. 0 for a reference
    itself, below about 0.1 for images of the same style.

    Arguments:
        reference: A path, a tensor (3, H, W) or (N, 3, H, W) in [0, 1], or several.
        combine: With several references: "mean", distance to the mean of their Gram matrices, or "best", the nearest.
        layers: Resolutions that count, of 0 (finest: palette, grain), 1 and 2 (coarsest: larger patterns).
        network: A module from images in [0, 1] to maps (B, C, h, w), or a list of them; None for the bundled one.
        size: Side or (height, width) to which images are brought, in pixels; None leaves them as they are.
        device: Where the network runs.

    Raises:
        InvalidArgument: If options are unknown or disagree.
        InvalidImage: If a reference cannot be read.

    Source: Gatys et al. 2016, with features of our own. Not for identity: a style is often a palette, and colours of
    hair and skin, and those that a prompt names, follow it.
    """
    if network is not None and layers is not None:
        raise InvalidArgument(f"Got layers={list(layers)!r}, which a network of your own does not read. Leave it out.")
    if network is None:
        network = load_style_features(WEIGHTS / "style", (0, 1, 2) if layers is None else layers)
    loss = Style(reference, backend="gram", combine=combine, network=network, size=size, device=device)
    loss.name = "avatars-style"
    return loss
