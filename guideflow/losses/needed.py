"""What of reference photographs a network sees, and so what is kept of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from guideflow.losses.vision import resize


def as_needed(images: Sequence[Tensor], seen: int | Sequence[int] | None) -> tuple[Tensor, ...]:
    """Shrink references of which a network sees far less, as it does photographs, in whole grey levels.

    What is compared is then all that a saved run has to keep, and a PNG holds it exactly. They keep twice what is seen,
    or more, and what has once been shrunk stays as it is.

    Arguments:
        images: (3, H, W) each, in [0, 1].
        seen: Sides, or the shorter side, of what the network sees; None for all of them.
    """
    if seen is None:
        return tuple(images)
    short = max(512, 2 * (seen if isinstance(seen, int) else max(seen)))
    return tuple(_with_short_side(one, short) if one.shape[1] * one.shape[2] > 4 * short**2 else one for one in images)


def _with_short_side(image: Tensor, short: int) -> Tensor:
    scale = short / min(image.shape[1:])
    if scale >= 1:
        return image
    small = resize(image[None], (round(image.shape[1] * scale), round(image.shape[2] * scale)), "bicubic")
    return (small[0] * 255).round() / 255
