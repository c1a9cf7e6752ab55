"""`avatars-segmentation`: distance of a portrait's layout to one that is drawn, or seen in another image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from guideflow.images import open_picture
from guideflow.losses.vision import PillowImage
from guideflow_avatars.identity import WEIGHTS
from guideflow_segmentation import Segmentation
from guideflow_segmentation.layout import Colour, Layout, check_readable

# No mixture of two of these is near a third, so that soft edges between two classes never read as another one.
PALETTE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "background": "#ffffff",
        "clothes": "#1f4fd8",
        "skin": "#ffb74d",
        "hair": "#5d2e0c",
        "beard": "#1fae4b",
        "features": "#e0107a",
    }
)
"""Classes of the avatars world in the order of their numbers, and the colours that layouts are drawn in."""

FREE: Final = "#808080"
"""Colour in which free pixels are shown; like any colour that is no class's, it reads as free."""


def avatars_segmentation(
    layout: Layout | None = None,
    *,
    reference: str | Path | Tensor | None = None,
    labels: str | int | Sequence[str | int] | None = None,
    others: str = "ignore",
    ignore_index: int = 255,
    class_weights: Mapping[str | int, float] | Mapping[str, float] | Sequence[float] | None = None,
    colours: Mapping[str, Colour] | Mapping[int, Colour] | None = None,
    device: str = "cpu",
) -> Segmentation:
    """Cross-entropy between what the bundled network sees where in a portrait, and the layout that is wanted.

        loss(x) = sum over pixels p of  w[y_p] CE(net(x)_p, y_p)  /  sum over pixels p of  w[y_p]

    `segmentation` with a U-Net for 128x128 portraits and a palette to draw in: background (0) white #ffffff, clothes
    (1) blue #1f4fd8, skin (2) orange #ffb74d, hair (3) brown #5d2e0c, beard (4) green #1fae4b, features (5: eyes,
    brows, mouth) pink #e0107a. Pixels of other colours, and transparent ones, are free.

    Arguments:
        layout: Path of a PNG, or an image of Pillow's, in these colours, or with a palette of other colours or grey
            values whose numbers are the classes; or whole numbers (H, W) as tensor or array. It is stretched over the
            image.
        reference: A portrait whose layout is wanted, instead of a layout: a path, or a tensor (3, H, W) in [0, 1].
        labels: Names or numbers of the classes that count; by default all.
        others: With labels: "ignore", pixels of other classes are free; "merge", all other classes are one, so what is
            wanted is wanted exactly there.
        ignore_index: Number of pixels in the layout that do not count.
        class_weights: Weight of each class by name or number, 1 for those left out; or six numbers.
        colours: For a layout drawn in other colours: the colour of each class by name or number, such as "#ff8000".
        device: Where the network runs.

    Raises:
        InvalidArgument: If not exactly one of layout and reference is given, there is no such class, or nothing counts.
        InvalidImage: If a file cannot be read.
        MissingExtra: If segmentation_models_pytorch is not installed.

    Source: Bansal et al. 2023 (Universal Guidance), their segmentation guidance.
    """
    if colours is None and isinstance(layout, str | Path | PillowImage) and _drawn_in_palette(layout):
        colours = dict(PALETTE)
    loss = Segmentation(
        layout,
        reference=reference,
        network=WEIGHTS / "segmentation",
        labels=labels,
        others=others,
        ignore_index=ignore_index,
        class_weights=class_weights,
        colours=colours,
        device=device,
    )
    loss.name, loss.draw = "avatars-segmentation", draw
    return loss


def draw(layout: Tensor, ignore_index: int = 255) -> Tensor:
    """Draw maps of classes (..., H, W) in the colours of `PALETTE`, (..., 3, H, W) in [0, 1]; free pixels are grey."""
    values = layout.detach().cpu().long()
    free = values == ignore_index
    return _colours(*PALETTE.values(), FREE)[values.where(~free, len(PALETTE))].movedim(-1, -3) / 255


def _colours(*codes: str) -> Tensor:
    return torch.tensor([list(bytes.fromhex(code[1:])) for code in codes]).float()


def _drawn_in_palette(layout: str | Path | PillowImage) -> bool:
    """Whether a layout is drawn in colours rather than in class numbers.

    Image editors store a drawing of few colours as a palette and numbers in an order of their own. So an image with
    a palette is a drawing if nearly all of it is in colours of classes, transparent, or the grey of free pixels.
    """
    if isinstance(layout, str | Path):
        check_readable(Path(layout))
    with open_picture(Path(layout)) if isinstance(layout, str | Path) else nullcontext(layout) as picture:
        if picture.mode != "P":
            return picture.mode not in ("1", "L", "I", "I;16")
        shares = torch.tensor([(count, *rgba) for count, rgba in picture.convert("RGBA").getcolors(256) or []]).float()
    distance = torch.cdist(shares[:, 1:4], _colours(*PALETTE.values(), FREE)).amin(1)
    drawn = (distance < 4) | (shares[:, 4] < 128)
    return bool(shares[drawn, 0].sum() > 0.8 * shares[:, 0].sum())
