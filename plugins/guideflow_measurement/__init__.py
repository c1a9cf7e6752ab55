"""`measurement`: draw pictures that agree with a measurement of one that nobody has.

    loss = gf.load_loss("measurement", operator="downscale", factor=4, observed="small.png")

Operators are `downscale`, `mask`, `blur` and `greyscale`, any function from images to what was measured of them, or a
`Physics` of deepinv.
"""

from collections.abc import Mapping

import lazy_loader

from guideflow.registry import Entry, hookimpl

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


@hookimpl
def guideflow_losses() -> Mapping[str, Entry]:
    """The loss of this package."""
    return {
        "measurement": Entry(
            "guideflow_measurement.loss:Measurement",
            summary="Distance of a measurement of the image to the one observed: small, blurred, masked, grey",
            needs=("observed",),
        )
    }
