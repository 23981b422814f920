"""Activations: harvesting them, keeping them on the disk, and from text to array in one line."""

import lazy_loader

# What there is stands in __init__.pyi; a part is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
