"""Probes: one file per method, and the rules by which all of them validate."""

import lazy_loader

# What there is stands in __init__.pyi; a part is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
