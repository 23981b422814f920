"""What is wrong with a dataset, found by probes and by latents: labels, shortcuts, duplicates."""

import lazy_loader

# What there is stands in __init__.pyi; a file is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
