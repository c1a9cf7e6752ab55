"""Drawn faces that the face detector takes for real ones, so that tests need no photographs."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

ANN = {"skin": (224, 172, 140), "hair": (50, 30, 20)}
BOB = {"skin": (120, 80, 60), "hair": (20, 20, 20), "width": 0.9}
CAT = {"skin": (240, 200, 170), "hair": (200, 170, 90), "width": 1.1}


def face(skin, hair, width=1.0, size=256):
    """A face from the front, (1, 3, size, size) in [0, 1]; `width` is that of the head."""
    picture = Image.new("RGB", (256, 256), (120, 150, 180))
    draw = ImageDraw.Draw(picture)

    def ellipse(x, y, rx, ry, fill):
        draw.ellipse([x - rx, y - ry, x + rx, y + ry], fill=fill)

    ellipse(128, 110, 72 * width, 88, hair)
    ellipse(128, 135, 60 * width, 80, skin)
    for x in (128 - 25 * width, 128 + 25 * width):
        ellipse(x, 118, 13, 7, (245, 245, 245))
        ellipse(x, 118, 6, 6, (60, 40, 30))
        draw.rectangle([x - 15, 98, x + 15, 103], fill=hair)
    draw.polygon([(128, 120), (116, 155), (140, 155)], fill=tuple(int(v * 0.75) for v in skin))
    ellipse(121, 155, 4, 3, (90, 50, 40))
    ellipse(135, 155, 4, 3, (90, 50, 40))
    ellipse(128, 180, 24 * width, 8, (160, 70, 70))
    draw.line([(104, 180), (152, 180)], fill=(90, 30, 30), width=2)
    picture = picture.filter(ImageFilter.GaussianBlur(1.5)).resize((size, size), Image.Resampling.LANCZOS)
    flat = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    # Skin has a grain. Without one the network's maxima are ties, where it has no gradient.
    grain = torch.randn(flat.shape, generator=torch.Generator().manual_seed(sum(skin)))
    return (flat + 0.03 * grain).clamp(0.05, 0.95)


def beside(*faces):
    """Several pictures side by side as one."""
    return torch.cat(faces, dim=3)


def nobody(size=256):
    """A picture without a face."""
    return torch.full((1, 3, size, size), 0.5)
