"""Steer a frozen few-step image sampler with the gradient of any loss on its final image.

Importing guideflow is light: everything, torch included, loads when first used. The public names are those of
`__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
