"""Whole runs, from a configuration to a folder of results and back, and the other long jobs."""

import lazy_loader

# What there is stands in __init__.pyi; a part is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
