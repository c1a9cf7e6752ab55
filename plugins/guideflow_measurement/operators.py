"""What may have happened to a picture before it was seen."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from guideflow._given import count, in_range, one_of
from guideflow.errors import InvalidArgument
from guideflow.losses.vision import ImageSource, read_images

_LUMA = (0.299, 0.587, 0.114)  # of ITU-R BT.601, as in Pillow's mode "L"


class Operator(ABC):
    """A map from pictures to what is measured of them.

    Attributes:
        name: What it is called in `load_loss("measurement", operator=...)`.
    """

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, image: Tensor) -> Tensor:
        """Measure pictures, (B, 3, H, W) in [0, 1], each on its own."""

    def observe(self, picture: Tensor) -> Tensor:
        """Return the measurement that a picture (3, h, w) stands for; by default the picture itself."""
        return picture

    def cure(self, image: tuple[int, int], observed: tuple[int, int]) -> str:
        """Return what to type where images and what was observed differ in size, other than another size; or nothing.

        Arguments:
            image: Height and width of the images.
            observed: Height and width of what was observed.
        """
        return ""


@final
@dataclass(frozen=True)
class Downscale(Operator):
    """Smaller pictures: super-resolution is the way back.

        A(x): H x W -> floor(H / factor) x floor(W / factor)
        each pixel a weighted mean of those it stands for

    Arguments:
        factor: How many times smaller, at least 1.
        method: "bicubic" and "bilinear", which look beyond a pixel's own area, as in Pillow; or "area", its plain mean.
    """

    name: ClassVar[str] = "downscale"

    factor: int = 4
    method: str = "bicubic"

    def __post_init__(self) -> None:
        count("factor", self.factor)
        one_of("method", self.method, ("bicubic", "bilinear", "area"))

    def __call__(self, image: Tensor) -> Tensor:
        """Return the smaller pictures."""
        height, width = image.shape[2] // self.factor, image.shape[3] // self.factor
        if min(height, width) == 0:
            shape = "x".join(map(str, image.shape[2:]))
            raise InvalidArgument(f"Got factor={self.factor} for images of {shape}, of which nothing is left.")
        return F.interpolate(image, (height, width), mode=self.method, antialias=self.method != "area")

    def cure(self, image: tuple[int, int], observed: tuple[int, int]) -> str:
        """Name the factor that fits, if there is one."""
        factor = image[0] // observed[0]
        return f"factor={factor}" if factor > 1 and (image[0] // factor, image[1] // factor) == observed else ""


@final
@dataclass(frozen=True)
class Mask(Operator):
    """Pictures of which a part is hidden: inpainting is the way back.

        A(x) = m x,    m in [0, 1]: 1 where the picture was seen, 0 where it was not

    Arguments:
        mask: Picture of the size of the images, white where they were seen and black where anything may be; or a
            tensor (H, W) or (1, H, W).
    """

    name: ClassVar[str] = "mask"

    mask: ImageSource

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", mask := _read_mask(self.mask))
        if not bool(mask.any()):
            raise InvalidArgument("The mask is black all over, so nothing was seen. Expected white where it was.")

    def __call__(self, image: Tensor) -> Tensor:
        """Return the pictures, black where they are hidden."""
        seen = self.seen
        if image.shape[2:] != seen.shape[1:]:
            sizes = ["x".join(map(str, shape)) for shape in (seen.shape[1:], image.shape[2:])]
            size = tuple(image.shape[2:])
            raise InvalidArgument(
                f"The mask is {sizes[0]} and the picture {sizes[1]}. Expected the same: type "
                f"mask=gf.images.read_image('mask.png', size={size}), and observed alike if it is of another size."
            )
        return seen.to(image) * image

    def observe(self, picture: Tensor) -> Tensor:
        """Forget what is drawn where nothing was seen."""
        return self(picture[None])[0]

    @property
    def seen(self) -> Tensor:
        """m, (1, H, W)."""
        assert isinstance(self.mask, Tensor)
        return self.mask


@final
@dataclass(frozen=True)
class Blur(Operator):
    """Pictures out of focus: deblurring is the way back.

        A(x) = x * k,    k a Gaussian of standard deviation sigma;   the picture's edge goes on beyond

    Arguments:
        sigma: In pixels, above 0.
    """

    name: ClassVar[str] = "blur"

    sigma: float = 2.0

    def __post_init__(self) -> None:
        in_range("sigma", self.sigma, 1e-3)

    def __call__(self, image: Tensor) -> Tensor:
        """Return the blurred pictures."""
        radius = math.ceil(4 * self.sigma)
        place = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
        kernel = torch.softmax(-(place**2) / (2 * self.sigma**2), 0)
        channels = image.shape[1]
        wide = F.pad(image, (radius,) * 4, mode="replicate")
        rows = F.conv2d(wide, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
        return F.conv2d(rows, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


@final
@dataclass(frozen=True)
class Greyscale(Operator):
    """Pictures without colours: colouring is the way back.

    A(x) = 0.299 red + 0.587 green + 0.114 blue
    """

    name: ClassVar[str] = "greyscale"

    def __call__(self, image: Tensor) -> Tensor:
        """Return grey pictures, (B, 1, H, W)."""
        return (image * image.new_tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)

    def observe(self, picture: Tensor) -> Tensor:
        """Return the brightness of a picture, which may have colours; files of grey ones are read as RGB."""
        return self(picture[None])[0]


def _read_mask(given: ImageSource) -> Tensor:
    """Read a mask, (1, H, W) in [0, 1]."""
    if isinstance(given, Tensor) and (given.dim() == 2 or given.shape[:-2] in ((1,), (1, 1))):
        mask = given.detach().float().reshape(1, *given.shape[-2:])
        if mask.numel() and 0 <= mask.min() and mask.max() <= 1:
            return mask
        raise InvalidArgument("Got a mask with values beyond [0, 1], or of no size. Type `mask / 255` for 0..255.")
    masks = read_images(given, what="mask")
    if len(masks) != 1:
        raise InvalidArgument(f"Got {len(masks)} masks. Expected one, for all images.")
    return masks[0].float().mean(0, keepdim=True)
