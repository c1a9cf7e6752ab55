"""Judge finished pictures by what did not guide them, and report: means with intervals, worst cases first."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
