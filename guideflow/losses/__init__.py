"""Losses on images: their algebra, schedules and balance, and what those that look through a network share."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
