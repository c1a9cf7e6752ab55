"""`sharpness`: pictures with crisp edges, or soft ones with a negative weight."""

from torch import Tensor
from torch.nn import functional as F

import guideflow as gf


class Sharpness(gf.Loss):
    """Softness of a picture: 1 where it is flat, towards 0 the crisper it is.

        loss(x) = 1 / (1 + r / half),    r = mean(Laplacian^2) / (mean(gradient^2) + 1e-6)    of grey x

    The energy of the Laplacian is a classic measure of focus; divided by the energy of the gradient it does not depend
    on contrast, so a picture cannot become sharp by becoming glaring. r is 8 for a checkerboard of pixels.

    Arguments:
        half: the ratio r at which the loss is 1/2, above 0.

    Source: Subbarao et al., Focusing techniques (Optical Engineering 1993), for both energies as measures of focus.
    Not for long solves at a high weight: noise is sharp, too.
    """

    name = "sharpness"

    def __init__(self, half: float = 1.0) -> None:
        """Validate."""
        if not 0 < half < float("inf"):
            raise ValueError(f"half = {half} is out of range; expected a finite number above 0")
        self._half = half

    def __call__(self, image: Tensor) -> Tensor:
        """Return the softness of each picture, in [0, 1]."""
        gf.check_image(image)
        image = image.float()
        grey = (image * image.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
        kernel = image.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
        bends = F.conv2d(grey, kernel).square().flatten(1).mean(1)
        slopes = sum(grey.diff(dim=d).square().flatten(1).mean(1) for d in (-2, -1))
        ratio = bends / (slopes + 1e-6)
        return 1 / (1 + ratio / self._half)


@gf.hookimpl
def guideflow_losses() -> dict[str, gf.Entry]:
    """Tell guideflow what there is."""
    return {"sharpness": gf.Entry(Sharpness, "Crisp edges, whatever the contrast")}
