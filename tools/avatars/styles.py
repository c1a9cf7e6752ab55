"""Picture styles drawn by procedures: what the networks behind `avatars-style` learn to tell apart.

A style is a function of pictures (B, 3, 128, 128) in [0, 1] and a generator, whose random numbers vary it a little.
Those of `HELD_OUT` are in no training set.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from common import DEVICE
from recognisers import uniform

Style = Callable[[Tensor, torch.Generator], Tensor]


def _colours(*colours: tuple[float, float, float]) -> Tensor:
    """Colours to multiply or mix pictures with, (N, 3, 1, 1)."""
    return torch.tensor(colours, device=DEVICE).view(-1, 3, 1, 1)


CREAM, PENCIL, PHOSPHOR = _colours((0.97, 0.94, 0.86), (1.0, 0.98, 0.93), (0.6, 1.1, 0.75))


def luma(x: Tensor) -> Tensor:
    """Brightness (B, 1, H, W)."""
    red, green, blue = x.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def gradient_map(*colours: str) -> Style:
    """Replace brightness by the colour at that place of a scale from dark to light, such as "301020", "ffd080"."""
    stops = _colours(*(tuple(byte / 255 for byte in bytes.fromhex(c)) for c in colours)).flatten(1)

    def style(x: Tensor, generator: torch.Generator) -> Tensor:
        off = 0.03 * torch.randn(len(x), 1, 3, generator=generator, device=x.device)
        scale = (stops + off).clamp(0, 1)  # (B, stops, 3)
        place = luma(x).clamp(0, 1) ** uniform(x, generator, 0.8, 1.25) * (len(stops) - 1)
        low = place.floor().clamp(max=len(stops) - 2).long()
        share = place - low
        rows = torch.arange(len(x), device=x.device)[:, None, None]
        below, above = (scale[rows, (low + i)[:, 0]].permute(0, 3, 1, 2) for i in (0, 1))
        return torch.lerp(below, above, share)

    return style


def pastel(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pale colours."""
    grey = luma(x)
    return 1 - uniform(x, generator, 0.35, 0.5) * (1 - torch.lerp(grey, x, uniform(x, generator, 0.5, 0.8)))


def negative(x: Tensor, generator: torch.Generator) -> Tensor:
    """Every colour its opposite."""
    return 1 - x * uniform(x, generator, 0.85, 1)


def posterised(x: Tensor, generator: torch.Generator) -> Tensor:
    """Three loud levels of each colour."""
    loud = luma(x) + (x - luma(x)) * uniform(x, generator, 1.6, 2.2)
    return (loud.clamp(0, 1) * 2).round() / 2


def _grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every pixel, counted by twos."""
    y, z = torch.meshgrid(*(torch.arange(side, device=x.device) / 2 for side in x.shape[-2:]), indexing="ij")
    return y, z


def halftone(x: Tensor, generator: torch.Generator) -> Tensor:
    """Dark dots on paper, the larger the darker."""
    y, z = _grid(x)
    phase = uniform(x, generator, 0, 4)
    dots = (torch.sin((y + z + phase) * 1.11) * torch.sin((y - z + phase) * 1.11) + 1) / 2
    ink = torch.sigmoid(14 * (dots - luma(x) * 0.9))
    return torch.lerp(CREAM, x * 0.45, ink)


def hatching(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pencil strokes in two directions."""
    y, z = _grid(x)
    phase = uniform(x, generator, 0, 6)
    one, two = (torch.sin((y + sign * z + phase) * 1.4) for sign in (1, -1))
    dark = 1 - luma(x)
    ink = torch.sigmoid(8 * (one - 1.2 + 2 * dark)) * 0.8 + torch.sigmoid(8 * (two - 2 + 2.4 * dark)) * 0.6
    return (0.96 - 0.85 * ink.clamp(0, 1)).expand_as(x) * PENCIL


def _blur(x: Tensor, radius: int) -> Tensor:
    for _ in range(2):
        x = F.avg_pool2d(F.pad(x, (radius,) * 4, mode="replicate"), 2 * radius + 1, 1)
    return x


def _clouds(x: Tensor, generator: torch.Generator, radius: int) -> Tensor:
    """Soft noise (B, 1, H, W)."""
    height, width = x.shape[-2:]
    noise = torch.randn(len(x), 1, height // 2, width // 2, generator=generator, device=x.device)
    return F.interpolate(_blur(noise, radius), (height, width), mode="bilinear")


def watercolour(x: Tensor, generator: torch.Generator) -> Tensor:
    """Soft, thin paint with dark rims, on mottled paper."""
    soft = _blur(x, 2)
    rims = (_blur(x, 4) - soft).abs().sum(1, keepdim=True)
    return 0.25 + 0.75 * soft - 0.5 * rims + 0.5 * _clouds(x, generator, 2)


def mosaic(x: Tensor, generator: torch.Generator) -> Tensor:
    """Tiles with light joints."""
    tiles = F.avg_pool2d(x, 8) * uniform(x, generator, 0.9, 1.1)
    tiles = tiles + 0.06 * torch.randn(tiles.shape, generator=generator, device=x.device)
    y, z = _grid(x)
    return torch.where((y % 4 >= 3) | (z % 4 >= 3), 0.88, F.interpolate(tiles, x.shape[-2:]))


def grain(x: Tensor, generator: torch.Generator) -> Tensor:
    """A coarse film in grey."""
    noise = 2.2 * _clouds(x, generator, 1)
    return (luma(x) * 0.9 + 0.05 + uniform(x, generator, 0.12, 0.2) * noise).expand_as(x)


def scan_lines(x: Tensor, generator: torch.Generator) -> Tensor:
    """An old screen: dark lines, green light."""
    y, _ = _grid(x)
    lines = 0.55 + 0.45 * torch.cos((y + uniform(x, generator, 0, 3)) * 2.0944)
    return x * lines * PHOSPHOR


def ink(x: Tensor, generator: torch.Generator) -> Tensor:
    """Black outlines on white."""
    grey = _blur(x, 2)
    edges = sum(
        F.pad((grey.diff(dim=d)).abs().amax(1, keepdim=True), (0, 1, 0, 0) if d == 3 else (0, 0, 0, 1)) for d in (2, 3)
    )
    return (1 - uniform(x, generator, 10, 15) * edges).clamp(0.05, 1).expand_as(x)


def stripes(x: Tensor, generator: torch.Generator) -> Tensor:
    """Bright diagonal ribbons over the picture's colours."""
    y, z = _grid(x)
    wave = torch.sin((y + z) * 0.55 + uniform(x, generator, 0, 6))
    return torch.lerp(x, x.roll(1, 1), torch.sigmoid(6 * wave) * 0.75)


def weave(x: Tensor, generator: torch.Generator) -> Tensor:
    """Threads over and under each other."""
    y, z = _grid(x)
    over = ((y // 3 + z // 3) % 2 == 0).float()
    thread = torch.where(over == 1, torch.sin(y * 2.1), torch.sin(z * 2.1))
    return x * (0.8 + uniform(x, generator, 0.15, 0.25) * thread)


STYLES: dict[str, Style] = {
    "plain": lambda x, _: x,
    "sepia": gradient_map("2a1608", "8a6238", "f4e3c0"),
    "night": gradient_map("050a2a", "2a4a90", "b8d8ff"),
    "neon": gradient_map("12022e", "d0108c", "30f0f0"),
    "sunset": gradient_map("2c0a3c", "e0503a", "ffd86a"),
    "rose": gradient_map("3a0618", "c05078", "ffe4ea"),
    "sea": gradient_map("02262c", "1a8a90", "dcfff4"),
    "violet": gradient_map("14062c", "7a4cc0", "efe2ff"),
    "gold": gradient_map("1c1204", "c08a10", "fff2a0"),
    "ash": gradient_map("0c0c0c", "808080", "fafafa"),
    "pastel": pastel,
    "negative": negative,
    "posterised": posterised,
    "halftone": halftone,
    "hatching": hatching,
    "watercolour": watercolour,
    "mosaic": mosaic,
    "grain": grain,
    "scan lines": scan_lines,
    "ink": ink,
    "stripes": stripes,
}
"""Styles to train on."""

HELD_OUT: dict[str, Style] = {
    "forest": gradient_map("06180a", "3c7a34", "e6f4b8"),
    "copper": gradient_map("04202a", "b06038", "ffe8d4"),
    "fire": gradient_map("180202", "d82010", "ffd040"),
    "weave": weave,
}
"""Styles that no network was trained on."""


def paint(x: Tensor, generator: torch.Generator, styles: dict[str, Style] = STYLES) -> Tensor:
    """Pass each picture through a style, all styles in turn: picture i through number i modulo how many there are."""
    painted = x.clone()
    for number, style in enumerate(styles.values()):
        if number < len(x):
            painted[number :: len(styles)] = style(x[number :: len(styles)], generator).clamp(0, 1)
    return painted
